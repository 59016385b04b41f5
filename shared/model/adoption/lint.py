"""What a policy says in vain: unknown names, rules that never match, are shadowed, redundant or contradictory.

Belongs here: judging rules without any connection, by what surrounds them. Doesn't: reading documents (they refuse what
has no meaning at all), or what rules mean for connections that were seen (``blockers.py``). Pure.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from enum import StrEnum

import msgspec

from shared.model.identity.program import Program
from shared.model.policy.cidr import METADATA_ADDRESSES, Address, is_named, parse_cidr
from shared.model.policy.rules import Action, Direction, NamespaceState, Peer, PortRange, Rule

# Comparing each rule with each other one; an object in Kubernetes holds no more.
_MAX_COMPARED = 1_000
# Kubernetes' own zone, by its usual name.
_CLUSTER_ZONES = (".cluster.local", ".svc")


class Level(StrEnum):
    """How much a finding matters: an error makes a rule useless; a warning says that it may be, or is superfluous."""

    ERROR = "error"
    WARNING = "warning"


class LintCode(StrEnum):
    """What was found."""

    UNKNOWN_NAMESPACE = "unknown_namespace"
    UNKNOWN_WORKLOAD = "unknown_workload"
    UNAPPROVED_PROGRAM = "unapproved_program"
    SERVICE_ADDRESS = "service_address"
    MEMBER_ADDRESS = "member_address"
    CLUSTER_HOST = "cluster_host"
    SINGLE_LABEL_HOST = "single_label_host"
    NEVER_MATCHES = "never_matches"
    CONTRADICTORY = "contradictory"
    SHADOWED = "shadowed"
    REDUNDANT = "redundant"


class LintFinding(msgspec.Struct, frozen=True, kw_only=True):
    """One finding; ``rule``: empty where it is about the whole policy."""

    level: Level
    code: LintCode
    namespace: str
    rule: str
    message: str
    hint: str = ""


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What exists beside a policy. None: not known, and not judged by.

    Attributes:
        namespaces: all of them.
        workloads: ``namespace/service-account``, all of them.
        services: the Services' own addresses, with ``namespace/name``.
        members: the addresses of sidecars, with their workload.
        approvals: of each workload, its approved programs.
    """

    namespaces: frozenset[str] | None = None
    workloads: frozenset[str] | None = None
    services: Mapping[str, str] = {}
    members: Mapping[str, str] = {}
    approvals: Mapping[str, frozenset[Program]] | None = None


def lint(state: NamespaceState, around: Surroundings) -> tuple[LintFinding, ...]:
    """Judge a namespace's rules, in their order, and whether those exist who have a mode of their own.

    What this does *not* find: rules that match nothing because of several others together, or of labels; nor, in a
    policy of more than ``_MAX_COMPARED`` rules, what rules say about one another.
    """
    findings: list[LintFinding] = []
    for each in state.workload_modes:
        findings += _check_workload(_Saying(state.namespace), state.namespace, each.service_account, around)
    for number, rule in enumerate(state.rules):
        say = _Saying(state.namespace, rule.name)
        findings += _check_names(say, rule, around)
        findings += _check_addresses(say, rule, around)
        findings += _check_hosts(say, rule)
        findings += _check_direction(say, rule)
        if len(state.rules) <= _MAX_COMPARED:
            findings += _check_others(say, rule, number, state.rules)
    return tuple(findings)


class _Saying:
    def __init__(self, namespace: str, rule: str = "") -> None:
        self.namespace = namespace
        self._rule = rule

    def __call__(self, level: Level, code: LintCode, message: str, hint: str = "") -> LintFinding:
        return LintFinding(
            level=level, code=code, namespace=self.namespace, rule=self._rule, message=message, hint=hint
        )


def _check_names(say: _Saying, rule: Rule, around: Surroundings) -> Iterator[LintFinding]:
    for service_account in rule.workloads:
        yield from _check_workload(say, say.namespace, service_account, around)
        yield from _check_programs(say, f"{say.namespace}/{service_account}", rule.programs, rule, around)
    for peer in rule.peers:
        if not peer.namespace:
            continue
        if around.namespaces is not None and peer.namespace not in around.namespaces:
            yield _say_unknown(
                say, LintCode.UNKNOWN_NAMESPACE, f"namespace {peer.namespace}", peer.namespace, around.namespaces
            )
        elif peer.service_account:
            yield from _check_workload(say, peer.namespace, peer.service_account, around)
            programs = (peer.program,) if peer.program is not None else ()
            workload = f"{peer.namespace}/{peer.service_account}"
            yield from _check_programs(say, workload, programs, rule, around)


def _check_workload(say: _Saying, namespace: str, service_account: str, around: Surroundings) -> Iterator[LintFinding]:
    name = f"{namespace}/{service_account}"
    if around.workloads is not None and name not in around.workloads:
        own = {each.partition("/")[2] for each in around.workloads if each.startswith(f"{namespace}/")}
        yield _say_unknown(say, LintCode.UNKNOWN_WORKLOAD, f"workload {name}", service_account, own)


def _check_programs(
    say: _Saying, workload: str, programs: Iterable[Program], rule: Rule, around: Surroundings
) -> Iterator[LintFinding]:
    if rule.action is not Action.ALLOW or around.approvals is None:
        return
    for program in programs:
        if program not in around.approvals.get(workload, frozenset()):
            yield say(
                Level.WARNING,
                LintCode.UNAPPROVED_PROGRAM,
                f"{program} isn't approved for {workload}: the rule doesn't match it until then",
                f"touchmark program approve {workload} {program}",
            )


def _check_addresses(say: _Saying, rule: Rule, around: Surroundings) -> Iterator[LintFinding]:
    for peer in rule.peers:
        for cidr in peer.cidrs:
            network = ipaddress.ip_network(cidr, strict=False)
            hosts = [str(network.network_address)] if network.num_addresses == 1 else []
            inside = [*hosts, *(_find_inside(network, around.services) if not hosts and network.prefixlen else ())]
            for address in inside:
                if address in around.services and rule.direction is Direction.EGRESS:
                    yield say(
                        Level.ERROR if hosts else Level.WARNING,
                        LintCode.SERVICE_ADDRESS,
                        f"{address} is the Service {around.services[address]}'s own address, which no rule ever meets:"
                        " the sidecar dials one of its endpoints, and that is what is judged",
                        "name the workload behind it in a rule of its own namespace, or, outside the mesh, its"
                        " endpoints' addresses: `kubectl get endpointslices`",
                    )
                    break
            for address in hosts:
                if address in around.members and rule.action is Action.ALLOW:
                    yield say(
                        Level.ERROR,
                        LintCode.MEMBER_ADDRESS,
                        f"{address} belongs to {around.members[address]}: no allow rule matches a member by address",
                        "name its namespace and serviceAccount",
                    )


def _check_hosts(say: _Saying, rule: Rule) -> Iterator[LintFinding]:
    for host in dict.fromkeys(host for peer in rule.peers for host in peer.hosts):
        if host.endswith(_CLUSTER_ZONES):
            yield say(
                Level.WARNING,
                LintCode.CLUSTER_HOST,
                f"{host} is a name inside the cluster: a Service's own address is never what is judged, and no egress"
                " rule matches a workload of the mesh",
                "name the workload behind it in a rule of its own namespace, or, outside the mesh, the endpoints'"
                " addresses in `cidrs`",
            )
        elif "." not in host:
            yield say(
                Level.WARNING,
                LintCode.SINGLE_LABEL_HOST,
                f"{host} is asked for as it is, without the search domains of /etc/resolv.conf",
                "write the whole name, such as api.example.com",
            )


def _find_inside(network: ipaddress.IPv4Network | ipaddress.IPv6Network, addresses: Iterable[str]) -> Iterator[str]:
    for address in addresses:
        if ipaddress.ip_address(address) in network:
            yield address


def _check_direction(say: _Saying, rule: Rule) -> Iterator[LintFinding]:
    if rule.direction is not Direction.EGRESS or rule.action is not Action.ALLOW:
        return
    inside = [peer for peer in rule.peers if not (peer.unidentified or peer.spiffe_id)]
    if rule.peers and not inside:
        return
    every = not rule.peers or len(inside) == len(rule.peers)
    yield say(
        Level.ERROR if every else Level.WARNING,
        LintCode.NEVER_MATCHES,
        "an allow rule for egress matches only what is outside the mesh"
        + ("" if every else ": its peers with a namespace never match"),
        "connections inside the mesh are allowed by ingress rules of the destination's namespace",
    )


def _check_others(say: _Saying, rule: Rule, number: int, rules: tuple[Rule, ...]) -> Iterator[LintFinding]:
    for other_number, other in enumerate(rules):
        if other_number == number or other.direction is not rule.direction or not _covers(other, rule):
            continue
        if other.action is rule.action:
            if other_number < number or not _covers(rule, other):
                yield say(Level.WARNING, LintCode.REDUNDANT, f"{other.name} says all of it already")
                return
        elif rule.action is Action.ALLOW:
            both = _covers(rule, other)
            yield say(
                Level.ERROR,
                LintCode.CONTRADICTORY if both else LintCode.SHADOWED,
                f"{other.name} denies {'the same' if both else 'all of it'}, and deny rules come first",
                f"remove one of the two{'' if both else ', or narrow the deny rule'}",
            )
            return


def _covers(one: Rule, other: Rule) -> bool:
    """Tell whether whatever the other rule matches is matched by this one, as far as their parts say."""
    return (
        (not one.workloads or (bool(other.workloads) and set(other.workloads) <= set(one.workloads)))
        and (not one.programs or (bool(other.programs) and set(other.programs) <= set(one.programs)))
        and _covers_peers(one, other)
        and (not one.ports or (bool(other.ports) and all(_within(each, one.ports) for each in other.ports)))
    )


def _covers_peers(one: Rule, other: Rule) -> bool:
    if not one.peers:
        # A deny rule without peers matches everybody; an allow rule only who is identified.
        if one.action is Action.DENY:
            return True
        return all(not (peer.unidentified or peer.spiffe_id) for peer in other.peers)
    if not other.peers or not all(any(_covers_peer(wide, peer) for wide in one.peers) for peer in other.peers):
        return False
    # A wide network of an allow rule doesn't mean the metadata address, which a narrow one names.
    return one.action is Action.DENY or _list_named(other) <= _list_named(one)


def _list_named(rule: Rule) -> set[Address]:
    networks = [parse_cidr(each) for peer in rule.peers for each in peer.cidrs]
    return {address for address in METADATA_ADDRESSES if any(is_named(each, address) for each in networks)}


def _covers_peer(wide: Peer, narrow: Peer) -> bool:
    if wide.spiffe_id or narrow.spiffe_id:
        return wide.spiffe_id == narrow.spiffe_id or (
            wide.spiffe_id.endswith("/*") and narrow.spiffe_id.startswith(wide.spiffe_id[:-1])
        )
    if wide.unidentified or narrow.unidentified:
        return wide.unidentified and narrow.unidentified and _covers_strangers(wide, narrow)
    return (
        wide.namespace in ("", narrow.namespace)
        and wide.service_account in ("", narrow.service_account)
        and wide.program in (None, narrow.program)
    )


def _covers_strangers(wide: Peer, narrow: Peer) -> bool:
    if narrow.hosts:  # They may resolve to any address.
        return set(narrow.hosts) <= set(wide.hosts) or _covers_networks(wide.cidrs, ("0.0.0.0/0", "::/0"))
    return _covers_networks(wide.cidrs, narrow.cidrs)


def _covers_networks(wide: Iterable[str], narrow: Iterable[str]) -> bool:
    around = [ipaddress.ip_network(each, strict=False) for each in wide]
    for each in narrow:
        network = ipaddress.ip_network(each, strict=False)
        if not any(_is_subnet(network, one) for one in around):
            return False
    return True


def _is_subnet(
    network: ipaddress.IPv4Network | ipaddress.IPv6Network, one: ipaddress.IPv4Network | ipaddress.IPv6Network
) -> bool:
    return network.version == one.version and network.prefixlen >= one.prefixlen and network.network_address in one


def _within(ports: PortRange, ranges: Iterable[PortRange]) -> bool:
    return any(each.first <= ports.first and ports.last <= each.last for each in ranges)


def _say_unknown(say: _Saying, code: LintCode, what: str, name: str, known: Iterable[str]) -> LintFinding:
    """Call a name an error that is nearly a known one; another may be of what is still to come."""
    if close := get_close_matches(name, sorted(known), n=1):
        return say(Level.ERROR, code, f"there is no {what}", f"did you mean {close[0]}?")
    return say(Level.WARNING, code, f"there is no {what} yet: naming it has no effect until then")
