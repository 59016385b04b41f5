"""ClusterNetworkPolicy (policy.networking.k8s.io/v1alpha2): refuses too, within the cluster's own pods. Pure.

Source: https://network-policy-api.sigs.k8s.io/. What is refused goes into the tier Admin, ahead of everything but what
sidecars need, which passes on to the next tier; what is allowed, and the end of the list, into Baseline, so that an
administrator's export never overrules a namespace's own NetworkPolicies.
"""

from __future__ import annotations

from typing import Any, Final

from cli.export.plan import Effect, End, Flow
from cli.export.resolving import (
    ANYWHERE,
    CA_LABELS,
    DEFAULT_NAME,
    DNS_LABELS,
    DNS_NAMESPACE,
    DNS_PORT,
    NAMESPACE_LABEL,
    Object,
    Resolver,
    chunk,
    cut_exceptions,
    is_among,
    make_object,
    name_flow,
    name_object,
    reaches,
)
from cli.export.selectors import Labels
from shared.model.kubernetes.contract import HEALTH_PORT, STREAM_PORT, SYSTEM_NAMESPACE, TUNNEL_PORT
from shared.model.policy.rules import Direction, PortRange

_API: Final = "policy.networking.k8s.io/v1alpha2"
# The definition's bounds of rules, of peers, of protocols and of networks.
_MAX_ITEMS: Final = 25
_KEPT, _DENY, _ALLOW, _NEEDED, _LAST = 50, 100, 200, 300, 400


def write_cluster_network_policies(resolver: Resolver, system_namespace: str = SYSTEM_NAMESPACE) -> list[Object]:
    """Return ClusterNetworkPolicies for a plan."""
    plan = resolver.plan
    objects: list[Object] = []
    if any(flow.denies for flow in plan.flows):
        spec = {"tier": "Admin", "priority": _KEPT, **_list_needed(plan.namespace, system_namespace, "Pass")}
        objects.append(
            make_object(_API, "ClusterNetworkPolicy", name_object("touchmark", plan.namespace, "kept"), spec)
        )
    for flow in plan.flows:
        rules = _make_rules(resolver, flow)
        if rules and flow.denies:
            _describe_kept(resolver, flow, system_namespace)
        for number, labels in enumerate(resolver.find_own(flow) if rules else ()):
            for part, some in enumerate(chunk(rules, _MAX_ITEMS)):
                name = name_flow(flow, plan.namespace, str(number), str(part))
                spec = {
                    "tier": "Admin" if flow.denies else "Baseline",
                    "priority": _DENY if flow.denies else _ALLOW,
                    "subject": _name_pods(plan.namespace, labels),
                    str(flow.direction): some,
                }
                objects.append(make_object(_API, "ClusterNetworkPolicy", name, spec, rule=flow.rule))
    if plan.is_closed:
        _note(resolver)
        objects += _make_default(plan.namespace, system_namespace)
    return objects


def _note(resolver: Resolver) -> None:
    notes = [
        f"pods of the mesh reach each other on port {TUNNEL_PORT}, which carries every application's port",
        "pods without a sidecar are matched by the same labels; nothing is proven",
        "the kubelet's probes aren't from a pod: they pass",
        "what a namespace's own NetworkPolicies isolate isn't looked at by the tier Baseline",
    ]
    resolver.note(notes)
    resolver.lose(resolver.plan.namespace, Effect.LOOSER, "what comes in from outside the cluster isn't restricted")


def _list_needed(namespace: str, system_namespace: str, action: str) -> Object:
    """Return a subject and rules of what its sidecars need."""
    return {
        "subject": _name_pods(namespace, {}),
        "ingress": [
            {"name": "probes", "action": action, "from": [{"namespaces": {}}], "protocols": [_tcp(HEALTH_PORT)]}
        ],
        "egress": [
            {
                "name": "dns",
                "action": action,
                "to": [_name_pods(DNS_NAMESPACE, DNS_LABELS)],
                "protocols": [{"udp": {"destinationPort": {"number": DNS_PORT}}}, _tcp(DNS_PORT)],
            },
            {
                "name": "touchmark-ca",
                "action": action,
                "to": [_name_pods(system_namespace, CA_LABELS)],
                "protocols": [_tcp(STREAM_PORT)],
            },
        ],
    }


def _describe_kept(resolver: Resolver, flow: Flow, system_namespace: str) -> None:
    if flow.direction is Direction.INGRESS:
        if reaches(flow, HEALTH_PORT):
            resolver.describe_kept(flow, HEALTH_PORT)
        return
    for port, namespace in ((DNS_PORT, DNS_NAMESPACE), (STREAM_PORT, system_namespace)):
        if reaches(flow, port) and any(each.cidrs or is_among(namespace, each) for each in flow.ends):
            resolver.describe_kept(flow, port)


def _make_default(namespace: str, system_namespace: str) -> list[Object]:
    subject = _name_pods(namespace, {})
    needed = {"tier": "Baseline", "priority": _NEEDED, **_list_needed(namespace, system_namespace, "Accept")}
    last = {
        "tier": "Baseline",
        "priority": _LAST,
        "subject": subject,
        "ingress": [{"name": "rest", "action": "Deny", "from": [{"namespaces": {}}]}],
        "egress": [{"name": "rest", "action": "Deny", "to": [{"namespaces": {}}, {"networks": list(ANYWHERE)}]}],
    }
    return [
        make_object(_API, "ClusterNetworkPolicy", name_object("touchmark", namespace, part), spec)
        for part, spec in (("needed", needed), (DEFAULT_NAME.removeprefix("touchmark-"), last))
    ]


def _make_rules(resolver: Resolver, flow: Flow) -> list[Object]:
    is_ingress = flow.direction is Direction.INGRESS
    members: list[Object] = []
    networks: list[str] = []
    for end in flow.ends:
        if is_ingress and end.cidrs and not flow.denies:
            continue  # It passes: what comes from outside the cluster isn't restricted.
        if end.spiffe_id or end.hosts or (is_ingress and end.cidrs):
            resolver.skip(flow, end)
        elif end.is_everyone:
            members.append({"namespaces": {}})
            networks += [] if is_ingress else ANYWHERE
            if is_ingress:
                resolver.lose(flow.rule, Effect.LOOSER, "refuses pods only, not what comes from outside the cluster")
        elif end.cidrs:
            networks += end.cidrs if flow.denies else [part for cidr in end.cidrs for part in cut_exceptions(cidr)]
        else:
            members += _list_members(resolver, flow, end)
    if networks:
        resolver.describe_addresses(flow)
    outside: list[Object] = [{"networks": some} for some in chunk(networks, _MAX_ITEMS)]
    rules: list[Object] = []
    for peers, extra in ((members, [TUNNEL_PORT]), (outside, [])):
        if flow.denies:
            extra = []  # The tunnel carries other ports, too.
            if peers is members and members and flow.ports:
                message = f"refuses its ports, which pods of the mesh reach through port {TUNNEL_PORT}"
                resolver.lose(flow.rule, Effect.LOOSER, message)
        protocols: list[Any] = [_write_port(each) for each in flow.ports]
        protocols += [_tcp(port) for port in extra if flow.ports]
        for some in chunk(peers, _MAX_ITEMS):
            for ports in chunk(protocols, _MAX_ITEMS) or [[]]:
                rule: Object = {"action": "Deny" if flow.denies else "Accept", "from" if is_ingress else "to": some}
                rules.append({**rule, "protocols": ports} if ports else rule)
    return rules


def _list_members(resolver: Resolver, flow: Flow, end: End) -> list[Object]:
    if not end.namespace:
        return [{"namespaces": {}}]
    return [
        _name_pods(end.namespace, labels) for labels in resolver.find_pods(end.namespace, end.service_account, flow)
    ]


def _name_pods(namespace: str, labels: Labels) -> Object:
    selector = {"matchLabels": {NAMESPACE_LABEL: namespace}}
    if not labels:
        return {"namespaces": selector}
    return {"pods": {"namespaceSelector": selector, "podSelector": {"matchLabels": dict(labels)}}}


def _tcp(port: int) -> Object:
    return {"tcp": {"destinationPort": {"number": port}}}


def _write_port(port: PortRange) -> Object:
    if port.first == port.last:
        return _tcp(port.first)
    return {"tcp": {"destinationPort": {"range": {"start": port.first, "end": port.last}}}}
