"""NetworkPolicy (networking.k8s.io/v1): allows only, by pods' labels and addresses. Pure.

Source: https://kubernetes.io/docs/concepts/services-networking/network-policies/. Meant to stand beside the mesh: the
tunnel's port, the CA, probes and DNS are let through.
"""

from __future__ import annotations

from typing import Final

from cli.export.plan import Effect, End, Flow
from cli.export.resolving import (
    ANYWHERE,
    CA_LABELS,
    DEFAULT_NAME,
    DNS_LABELS,
    DNS_NAMESPACE,
    NAMESPACE_LABEL,
    Object,
    Resolver,
    list_exceptions,
    make_object,
    name_flow,
)
from cli.export.selectors import Labels
from shared.model.kubernetes.contract import HEALTH_PORT, STREAM_PORT, SYSTEM_NAMESPACE, TUNNEL_PORT
from shared.model.policy.rules import Direction, PortRange

_API: Final = "networking.k8s.io/v1"


def write_network_policies(resolver: Resolver, system_namespace: str = SYSTEM_NAMESPACE) -> list[Object]:
    """Return NetworkPolicies for a plan; none for one that isn't closed."""
    plan = resolver.plan
    for flow in plan.flows:
        if flow.denies:
            resolver.lose(flow.rule, Effect.LOOSER, "a NetworkPolicy can't refuse: what allows the same stays allowed")
    if not plan.is_closed:
        return []
    _note(resolver)
    objects = [_make_default(plan.namespace, system_namespace)]
    for flow in plan.flows:
        if flow.denies:
            continue
        rules = _make_rules(resolver, flow)
        for number, labels in enumerate(resolver.find_own(flow) if rules else ()):
            side = str(flow.direction)
            spec = {"podSelector": _select(labels), "policyTypes": [side.capitalize()], side: rules}
            name = name_flow(flow, *([str(number + 1)] if number else []))
            objects.append(make_object(_API, "NetworkPolicy", name, spec, namespace=plan.namespace, rule=flow.rule))
    return objects


def _note(resolver: Resolver) -> None:
    notes = [
        f"pods of the mesh reach each other on port {TUNNEL_PORT}, which carries every application's port",
        "pods without a sidecar are matched by the same labels; nothing is proven",
        "traffic between a pod and its own node passes, as Kubernetes defines it; not every plugin holds to that",
        f"probes: port {HEALTH_PORT} is open to every address",
    ]
    resolver.note(notes)


def _make_default(namespace: str, system_namespace: str) -> Object:
    dns = {
        "to": [_name_pods(DNS_NAMESPACE, DNS_LABELS)],
        "ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}],
    }
    ca = {"to": [_name_pods(system_namespace, CA_LABELS)], "ports": [{"protocol": "TCP", "port": STREAM_PORT}]}
    probes = {
        "from": [{"ipBlock": {"cidr": each}} for each in ANYWHERE],
        "ports": [{"protocol": "TCP", "port": HEALTH_PORT}],
    }
    spec = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": [probes], "egress": [dns, ca]}
    return make_object(_API, "NetworkPolicy", DEFAULT_NAME, spec, namespace=namespace)


def _make_rules(resolver: Resolver, flow: Flow) -> list[Object]:
    end = "from" if flow.direction is Direction.INGRESS else "to"
    members = [peer for each in flow.ends if each.is_member for peer in _list_members(resolver, flow, each)]
    blocks = [{"ipBlock": _write_block(cidr)} for each in flow.ends for cidr in each.cidrs]
    resolver.describe_addresses(flow)
    for each in flow.ends:
        if each.spiffe_id or each.hosts:
            resolver.skip(flow, each)
    rules: list[Object] = []
    for peers, extra in ((members, (TUNNEL_PORT,)), (blocks, ())):
        if peers:
            rule: Object = {end: peers}
            if flow.ports:
                rule["ports"] = [_write_port(each) for each in flow.ports]
                rule["ports"] += [{"protocol": "TCP", "port": port} for port in extra]
            rules.append(rule)
    return rules


def _write_block(cidr: str) -> Object:
    exceptions = list_exceptions(cidr)
    return {"cidr": cidr, "except": exceptions} if exceptions else {"cidr": cidr}


def _list_members(resolver: Resolver, flow: Flow, end: End) -> list[Object]:
    if not end.namespace:
        return [{"namespaceSelector": {}}]
    return [
        _name_pods(end.namespace, labels) for labels in resolver.find_pods(end.namespace, end.service_account, flow)
    ]


def _name_pods(namespace: str, labels: Labels) -> Object:
    peer: Object = {"namespaceSelector": {"matchLabels": {NAMESPACE_LABEL: namespace}}}
    if labels:
        peer["podSelector"] = _select(labels)
    return peer


def _select(labels: Labels) -> Object:
    return {"matchLabels": dict(labels)} if labels else {}


def _write_port(port: PortRange) -> Object:
    written: Object = {"protocol": "TCP", "port": port.first}
    if port.last != port.first:
        written["endPort"] = port.last
    return written
