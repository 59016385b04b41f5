"""Linkerd's Server and AuthorizationPolicy (policy.linkerd.io): allows only, at the destination, port by port. Pure.

Source: https://linkerd.io/2/reference/authorization-policy/. Meant for pods with Linkerd's proxy in the place of
Touchmark's sidecar. A port has one Server at most: so each workload's is its own, and what all workloads share is
repeated.
"""

from __future__ import annotations

from typing import Final

from cli.export.plan import Effect, End, Flow, Loss
from cli.export.resolving import Object, Resolver, expand_ports, make_object, name_flow, name_object
from cli.export.selectors import Labels
from shared.model.policy.rules import Direction

_GROUP: Final = "policy.linkerd.io"
_MAX_PORTS: Final = 64


def write_linkerd_policies(resolver: Resolver) -> list[Object]:
    """Return Servers, authentications and AuthorizationPolicies for a plan."""
    plan = resolver.plan
    servers: dict[str, Object] = {}
    others: list[Object] = []
    for flow in plan.flows:
        if flow.denies:
            resolver.lose(flow.rule, Effect.LOOSER, "Linkerd can't refuse: what allows the same stays allowed")
        elif flow.direction is Direction.EGRESS:
            if any(each.cidrs or each.hosts or each.spiffe_id for each in flow.ends):
                resolver.lose(flow.rule, Effect.LOOSER, "egress isn't decided at the source")
        else:
            names = _add_servers(resolver, flow, servers)
            others += _make_authorizations(resolver, flow, names) if names else []
    if plan.is_closed:
        _note(resolver)
    return [*(servers[name] for name in sorted(servers)), *others]


def _note(resolver: Resolver) -> None:
    name = resolver.plan.namespace
    resolver.lose(name, Effect.LOOSER, "what leaves the namespace isn't restricted: Linkerd decides at the destination")
    notes = [
        f"for ports without a Server: kubectl annotate namespace {name} config.linkerd.io/default-inbound-policy=deny",
        "identities are service accounts; no program is looked at",
        "probes pass as long as no HTTPRoute is attached to their port's Server; DNS isn't touched",
    ]
    resolver.losses.extend(Loss(rule=name, effect=Effect.NOTE, message=each) for each in notes)


def _add_servers(resolver: Resolver, flow: Flow, servers: dict[str, Object]) -> list[str]:
    namespace = resolver.plan.namespace
    names: list[str] = []
    for account in flow.own or tuple(resolver.selectors.list_accounts(namespace)):
        selectors: list[Labels] = resolver.find_pods(namespace, account, flow)
        found = resolver.selectors.find(f"{namespace}/{account}")
        ports = expand_ports(flow.ports, _MAX_PORTS) if flow.ports else list(found.ports if found else ())
        if not ports:
            what = f"more than {_MAX_PORTS} ports" if flow.ports else f"all ports of {account}, which names none,"
            resolver.skip(flow, flow.ends[0], what=what)
            continue
        for number, labels in enumerate(selectors):
            for port in ports:
                name = name_object("touchmark", account, str(port), str(number))
                spec = {"podSelector": {"matchLabels": dict(labels)}, "port": port, "accessPolicy": "deny"}
                servers[name] = make_object(f"{_GROUP}/v1beta3", "Server", name, spec, namespace=namespace)
                names.append(name)
    if not flow.own and not names:
        resolver.skip(flow, flow.ends[0], what="a rule for a namespace without known pods")
    return names


def _make_authorizations(resolver: Resolver, flow: Flow, servers: list[str]) -> list[Object]:
    namespace = resolver.plan.namespace
    objects: list[Object] = []
    for kind, spec in _list_authentications(resolver, flow):
        base = name_flow(flow, *([str(len(objects))] if objects else []))
        api = f"{_GROUP}/v1alpha1"
        objects.append(make_object(api, kind, base, spec, namespace=namespace, rule=flow.rule))
        for server in sorted(servers):
            authorization = {
                "targetRef": {"group": _GROUP, "kind": "Server", "name": server},
                "requiredAuthenticationRefs": [{"group": _GROUP, "kind": kind, "name": base}],
            }
            name = name_flow(flow, kind, str(len(objects)), server)
            objects.append(
                make_object(api, "AuthorizationPolicy", name, authorization, namespace=namespace, rule=flow.rule)
            )
    return objects


def _list_authentications(resolver: Resolver, flow: Flow) -> list[tuple[str, Object]]:
    found: list[tuple[str, Object]] = []
    references: list[Object] = []
    networks: list[str] = []
    for end in flow.ends:
        if end.spiffe_id:
            resolver.skip(flow, end)
        elif end.cidrs:
            networks += end.cidrs
            message = "an address is matched although the peer shows an identity"
            resolver.lose(flow.rule, Effect.LOOSER, message)
        elif not end.namespace:
            found.append(("MeshTLSAuthentication", {"identities": ["*"]}))
        else:
            references.append(_refer(end))
    if references:
        found.append(("MeshTLSAuthentication", {"identityRefs": references}))
    if networks:
        found.append(("NetworkAuthentication", {"networks": [{"cidr": each} for each in networks]}))
    return found


def _refer(end: End) -> Object:
    if end.service_account:
        return {"kind": "ServiceAccount", "name": end.service_account, "namespace": end.namespace}
    return {"kind": "Namespace", "name": end.namespace}
