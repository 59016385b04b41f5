"""CiliumNetworkPolicy (cilium.io/v2): allows and refuses, by service accounts, addresses and ports. Pure.

Source: https://docs.cilium.io/en/stable/security/policy/. Meant to stand beside the mesh: the tunnel's port, the CA,
probes from the node and DNS are let through.
"""

from __future__ import annotations

from typing import Final

from cli.export.plan import Effect, End, Flow
from cli.export.resolving import (
    CA_LABELS,
    DEFAULT_NAME,
    DNS_LABELS,
    DNS_NAMESPACE,
    DNS_PORT,
    Object,
    Resolver,
    chunk,
    is_among,
    list_exceptions,
    make_object,
    name_flow,
    reaches,
)
from cli.export.selectors import Labels
from shared.model.kubernetes.contract import HEALTH_PORT, STREAM_PORT, SYSTEM_NAMESPACE, TUNNEL_PORT
from shared.model.policy.rules import Direction

_API: Final = "cilium.io/v2"
_NAMESPACE: Final = "k8s:io.kubernetes.pod.namespace"
_ACCOUNT: Final = "k8s:io.cilium.k8s.policy.serviceaccount"
_IS_POD: Final[Object] = {"key": _NAMESPACE, "operator": "Exists"}
_EVERY_POD: Final[Object] = {"matchExpressions": [_IS_POD]}
_MAX_PORTS: Final = 40  # The definition's bound of one list of ports.
_SIDES: Final = {Direction.INGRESS: "from", Direction.EGRESS: "to"}


def write_cilium_policies(resolver: Resolver, system_namespace: str = SYSTEM_NAMESPACE) -> list[Object]:
    """Return CiliumNetworkPolicies for a plan."""
    plan = resolver.plan
    objects: list[Object] = []
    if plan.is_closed:
        _note(resolver)
        has_hosts = any(end.hosts for flow in plan.flows for end in flow.ends)
        objects.append(_make_default(plan.namespace, system_namespace, has_hosts=has_hosts))
    for flow in plan.flows:
        rules = _make_rules(resolver, flow, system_namespace)
        if not rules:
            continue
        for own in flow.own or ("",):
            section = f"{flow.direction}{'Deny' if flow.denies else ''}"
            spec: Object = {"endpointSelector": {"matchLabels": {_ACCOUNT: own}} if own else {}, section: rules}
            if flow.denies and not plan.is_closed:
                spec["enableDefaultDeny"] = {"ingress": False, "egress": False}
            name = name_flow(flow, *([own] if own else []))
            objects.append(
                make_object(_API, "CiliumNetworkPolicy", name, spec, namespace=plan.namespace, rule=flow.rule)
            )
    return objects


def _note(resolver: Resolver) -> None:
    notes = [
        f"pods of the mesh reach each other on port {TUNNEL_PORT}, which carries every application's port",
        "pods without a sidecar are matched by the same service accounts; no program is looked at",
        "addresses of pods and nodes of the cluster aren't matched by CIDRs in Cilium",
        f"probes: port {HEALTH_PORT} is open to the pod's own node",
    ]
    resolver.note(notes)


def _make_default(namespace: str, system_namespace: str, *, has_hosts: bool) -> Object:
    asked: Object = {"ports": [{"port": "53", "protocol": "ANY"}]}
    if has_hosts:  # Cilium goes by the answers that its proxy has seen.
        asked["rules"] = {"dns": [{"matchPattern": "*"}]}
    dns = {"matchLabels": {_NAMESPACE: DNS_NAMESPACE, **{f"k8s:{k}": v for k, v in DNS_LABELS.items()}}}
    ca = {"matchLabels": {_NAMESPACE: system_namespace, **{f"k8s:{k}": v for k, v in CA_LABELS.items()}}}
    spec = {
        "endpointSelector": {},
        "enableDefaultDeny": {"ingress": True, "egress": True},
        "ingress": [{"fromEntities": ["host"], "toPorts": _list_ports([(HEALTH_PORT, 0)])}],
        "egress": [
            {"toEndpoints": [dns], "toPorts": [asked]},
            {"toEndpoints": [ca], "toPorts": _list_ports([(STREAM_PORT, 0)])},
        ],
    }
    return make_object(_API, "CiliumNetworkPolicy", DEFAULT_NAME, spec, namespace=namespace)


def _make_rules(resolver: Resolver, flow: Flow, system_namespace: str) -> list[Object]:
    side = _SIDES[flow.direction]
    kept = _list_kept(resolver, flow, system_namespace)
    endpoints: list[Object] = []
    cidrs: list[str] = []
    hosts: list[str] = []
    entities: list[str] = []
    for end in flow.ends:
        if end.spiffe_id:
            resolver.skip(flow, end)
        elif end.is_everyone:
            endpoints += _select(End(), kept)
            entities.append("world")
        elif end.cidrs:
            cidrs += end.cidrs
        elif end.hosts:
            hosts += end.hosts
            message = "goes by the answers that the pods' own DNS queries get, where Touchmark's sidecar asks itself"
            resolver.lose(flow.rule, Effect.LOOSER, message)
        else:
            endpoints += _select(end, kept)
    ports = [(each.first, each.last) for each in flow.ports]
    if flow.denies and ports and endpoints:
        message = f"refuses its ports, which pods of the mesh reach through port {TUNNEL_PORT}"
        resolver.lose(flow.rule, Effect.LOOSER, message)
    through = [*ports, (TUNNEL_PORT, 0)] if ports and not flow.denies else ports
    found = {} if flow.denies else {each: list_exceptions(each) for each in cidrs}
    excepted = {cidr: some for cidr, some in found.items() if some}
    rules: list[Object] = []
    for field, peers, some in (
        (f"{side}Endpoints", endpoints, through),
        (f"{side}CIDR", [each for each in cidrs if each not in excepted], ports),
        (f"{side}CIDRSet", [{"cidr": cidr, "except": some} for cidr, some in excepted.items()], ports),
        (f"{side}Entities", entities, ports),
        (f"{side}FQDNs", [{"matchName": host} for host in dict.fromkeys(hosts)], ports),
    ):
        if peers:
            rules.append({field: peers, "toPorts": _list_ports(some)} if some else {field: peers})
    return rules


def _list_kept(resolver: Resolver, flow: Flow, system_namespace: str) -> dict[str, dict[str, str]]:
    """Return by namespace the labels of pods that a refusal leaves out: in Cilium it stands above what is let out."""
    kept: dict[str, dict[str, str]] = {}
    if not flow.denies or flow.direction is Direction.INGRESS:
        return kept
    found: tuple[tuple[int, str, Labels], ...] = (
        (DNS_PORT, DNS_NAMESPACE, DNS_LABELS),
        (STREAM_PORT, system_namespace, CA_LABELS),
    )
    for port, namespace, labels in found:
        if reaches(flow, port) and any(is_among(namespace, each) for each in flow.ends):
            kept.setdefault(namespace, {}).update(labels)
            resolver.describe_kept(flow, port)
    return kept


def _select(end: End, kept: dict[str, dict[str, str]]) -> list[Object]:
    """Return selectors of an end's pods, any of which may match; ``kept`` are left out."""
    if not end.namespace:
        if not kept:
            return [dict(_EVERY_POD)]
        others = {"key": _NAMESPACE, "operator": "NotIn", "values": sorted(kept)}
        within = (selector for namespace in sorted(kept) for selector in _select(End(namespace=namespace), kept))
        return [{"matchExpressions": [_IS_POD, others]}, *within]
    labels = {_NAMESPACE: end.namespace}
    if end.service_account:
        labels[_ACCOUNT] = end.service_account
    selector: Object = {"matchLabels": labels}
    if left := kept.get(end.namespace):
        selector["matchExpressions"] = [
            {"key": f"k8s:{key}", "operator": "NotIn", "values": [value]} for key, value in left.items()
        ]
    return [selector]


def _list_ports(ports: list[tuple[int, int]]) -> list[Object]:
    written: list[Object] = []
    for first, last in ports:
        port: Object = {"port": str(first), "protocol": "TCP"}
        if last > first:
            port["endPort"] = last
        written.append(port)
    return [{"ports": some} for some in chunk(written, _MAX_PORTS)]
