"""Istio's AuthorizationPolicy (security.istio.io/v1): decides at the destination, by principals. Pure.

Source: https://istio.io/latest/docs/reference/config/security/authorization-policy/. Meant for pods with Istio's proxy
in the place of Touchmark's sidecar.
"""

from __future__ import annotations

from typing import Final

from cli.export.plan import Effect, End, Flow, Loss
from cli.export.resolving import DEFAULT_NAME, Object, Resolver, expand_ports, make_object, name_flow
from shared.model.policy.rules import Direction

_API: Final = "security.istio.io/v1"
_TRUST_DOMAIN: Final = "cluster.local"  # Istio reads it as the mesh's own.
_MAX_PORTS: Final = 256  # There are no ranges.


def write_istio_policies(resolver: Resolver) -> list[Object]:
    """Return AuthorizationPolicies for a plan."""
    plan = resolver.plan
    objects: list[Object] = []
    if plan.is_closed:
        _note(resolver)
        objects.append(make_object(_API, "AuthorizationPolicy", DEFAULT_NAME, {}, namespace=plan.namespace))
    for flow in plan.flows:
        if flow.direction is Direction.EGRESS:
            if flow.denies or any(each.cidrs or each.hosts or each.spiffe_id for each in flow.ends):
                resolver.lose(flow.rule, Effect.LOOSER, "egress isn't decided at the source")
            continue
        rule = _make_rule(resolver, flow)
        for number, labels in enumerate(resolver.find_own(flow) if rule is not None else ()):
            spec: Object = {"action": "DENY" if flow.denies else "ALLOW", "rules": [rule]}
            if labels:
                spec["selector"] = {"matchLabels": dict(labels)}
            name = name_flow(flow, *([str(number + 1)] if number else []))
            objects.append(
                make_object(_API, "AuthorizationPolicy", name, spec, namespace=plan.namespace, rule=flow.rule)
            )
    return objects


def _note(resolver: Resolver) -> None:
    name = resolver.plan.namespace
    resolver.lose(name, Effect.LOOSER, "what leaves the namespace isn't restricted: Istio decides at the destination")
    notes = [
        "principals are service accounts; no program is looked at",
        "Istio rewrites probes to its own proxy: they pass; DNS isn't touched",
        "a member that shows no certificate is matched by its address alone",
    ]
    resolver.losses.extend(Loss(rule=name, effect=Effect.NOTE, message=each) for each in notes)


def _make_rule(resolver: Resolver, flow: Flow) -> Object | None:
    rule: Object = {}
    ports = expand_ports(flow.ports, _MAX_PORTS)
    if ports is None:
        what = f"more than {_MAX_PORTS} ports (there are no ranges)"
        resolver.skip(flow, flow.ends[0], what=what)
        return None
    if not any(each.is_everyone for each in flow.ends):
        rule["from"] = [{"source": _make_source(each)} for each in flow.ends]
    if ports:
        rule["to"] = [{"operation": {"ports": [str(port) for port in ports]}}]
    return rule or {}


def _make_source(end: End) -> Object:
    if end.spiffe_id:
        return {"principals": [end.spiffe_id.removeprefix("spiffe://")]}
    if end.cidrs:
        return {"notPrincipals": ["*"], "ipBlocks": list(end.cidrs)}
    if not end.namespace:
        return {"principals": ["*"]}
    if not end.service_account:
        return {"namespaces": [end.namespace]}
    return {"principals": [f"{_TRUST_DOMAIN}/ns/{end.namespace}/sa/{end.service_account}"]}
