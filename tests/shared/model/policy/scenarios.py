"""Strategies: namespaces, rules and parties small enough that rules often match."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
from hypothesis import strategies as st

from shared.model.identity.foreign import ForeignIdentity
from shared.model.identity.identity import Workload
from shared.model.identity.program import Program
from shared.model.policy.evaluate import NamespacePolicy, Party, Verdict, compile_namespace, evaluate
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import (
    Action,
    Approval,
    Direction,
    Mode,
    NamespaceState,
    Peer,
    PortRange,
    Rule,
    WorkloadLabels,
)

NAMESPACES = ("shop", "bank")
ACCOUNTS = ("web", "db")
PROGRAMS = (
    Program(digest="a" * 64),
    Program(digest="b" * 64),
    Program(digest="b" * 64, main="none"),
    Program(digest="b" * 64, main="c" * 64),
)
ADDRESSES = tuple(
    ipaddress.ip_address(text) for text in ("198.18.0.2", "198.18.1.2", "2001:db8::2", "::ffff:198.18.0.2")
)
CIDRS = ("198.18.0.0/24", "0.0.0.0/0", "2001:db8::/32", "::/0")
PORTS = (443, 5432)
FOREIGNERS = tuple(
    ForeignIdentity(trust_domain=domain, path=path)
    for domain in ("partner.example", "other.example")
    for path in ("/billing", "/ns/shop/sa/web")
)
PATTERNS = (
    "spiffe://partner.example/billing", "spiffe://partner.example/*", "spiffe://other.example/ns/*",
    "spiffe://other.example/ns/shop/sa/web",
)  # fmt: skip

workloads = st.builds(Workload, namespace=st.sampled_from(NAMESPACES), service_account=st.sampled_from(ACCOUNTS))
programs = st.sampled_from(PROGRAMS)
addresses = st.sampled_from(ADDRESSES)
ports = st.sampled_from(PORTS)


@st.composite
def peers(draw: st.DrawFn) -> Peer:
    """A peer of a rule, of each shape."""
    match draw(st.integers(min_value=0, max_value=5)):
        case 5:
            return Peer(spiffe_id=draw(st.sampled_from(PATTERNS)))
        case 0:
            return Peer(unidentified=True, cidrs=(draw(st.sampled_from(CIDRS)),))
        case 1:
            return Peer()
        case 2:
            return Peer(namespace=draw(st.sampled_from(NAMESPACES)))
        case _:
            return Peer(
                namespace=draw(st.sampled_from(NAMESPACES)),
                service_account=draw(st.sampled_from(ACCOUNTS)),
                program=draw(st.one_of(st.none(), programs)),
            )


@st.composite
def rules(draw: st.DrawFn, *, action: Action | None = None, name: str = "") -> Rule:
    """Any rule."""
    accounts = draw(st.lists(st.sampled_from(ACCOUNTS), max_size=2, unique=True))
    return Rule(
        name=name or f"rule-{draw(st.integers(min_value=0, max_value=9))}",
        action=action or draw(st.sampled_from(Action)),
        direction=draw(st.sampled_from(Direction)),
        workloads=tuple(accounts),
        programs=tuple(draw(st.lists(programs, max_size=2, unique=True))) if accounts else (),
        peers=tuple(draw(st.lists(peers(), max_size=2))),
        ports=tuple(PortRange(first=p, last=p) for p in draw(st.lists(ports, max_size=1))),
    )


@st.composite
def states(draw: st.DrawFn, namespace: str, modes: Sequence[Mode] = tuple(Mode)) -> NamespaceState:
    """Any state of this namespace; each program of each workload is approved in half of them."""
    approved, weak = draw(st.integers(min_value=0, max_value=255)), draw(st.booleans())
    teams = draw(st.sampled_from((("red", "red"), ("red", "blue"), ("blue",), ())))
    pairs = [(account, program) for account in ACCOUNTS for program in PROGRAMS]
    return NamespaceState(
        namespace=namespace,
        version=draw(st.integers(min_value=0, max_value=3)),
        mode=draw(st.sampled_from(modes)),
        group_label=draw(st.sampled_from(("", "", "team"))),
        rules=tuple(draw(st.lists(rules(), max_size=2))),
        approvals=tuple(
            Approval(service_account=account, program=program, weak=weak)
            for bit, (account, program) in enumerate(pairs)
            if approved >> bit & 1
        ),
        labels=tuple(
            WorkloadLabels(service_account=account, labels={"team": team})
            for account, team in zip(ACCOUNTS, teams, strict=False)
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One connection seen from one side, with the states of all namespaces."""

    direction: Direction
    source: Party
    destination: Party
    port: int
    states: dict[str, NamespaceState]

    def decide(self) -> Verdict:
        """Ask the evaluator, with the policies that a sidecar would pass."""
        return evaluate(
            direction=self.direction,
            source=self.source,
            destination=self.destination,
            port=self.port,
            source_policy=self.policy_of(self.source),
            destination_policy=self.policy_of(self.destination),
        )

    def policy_of(self, party: Party) -> NamespacePolicy | None:
        """The policy of the namespace that a party belongs to, proven or listed."""
        workload = party.workload or party.listed
        return None if workload is None else compile_namespace(self.states[workload.namespace])

    def own(self) -> Party:
        """The end at which this side decides."""
        return self.source if self.direction is Direction.EGRESS else self.destination

    def far(self) -> Party:
        """The other end."""
        return self.destination if self.direction is Direction.EGRESS else self.source

    def with_rule(self, namespace: str, rule: Rule) -> Scenario:
        """The same with one more rule, at the end of a namespace's."""
        state = self.states[namespace]
        changed = msgspec.structs.replace(state, rules=(*state.rules, rule))
        return replace(self, states={**self.states, namespace: changed})

    def with_far(self, party: Party) -> Scenario:
        """The same with another far end."""
        if self.direction is Direction.EGRESS:
            return replace(self, destination=party)
        return replace(self, source=party)


SHAPES = ("program", "sidecar", "member", "stranger", "pending", "foreign")


@st.composite
def own_parties(draw: st.DrawFn) -> Party:
    """The end at which this side decides: its workload is the sidecar's own; its program may be unattested."""
    program = draw(st.sampled_from((*PROGRAMS, None)))
    return Party(
        workload=draw(workloads),
        program=program,
        address=draw(addresses),
        why_unidentified=None if program else Reason.NO_OWNER,
    )


@st.composite
def far_parties(draw: st.DrawFn, direction: Direction, shapes: Sequence[str]) -> Party:
    """The other end: a program, a sidecar that vouches for none, a member without its mark, a stranger, a foreigner."""
    workload, address = draw(workloads), draw(addresses)
    match draw(st.sampled_from(shapes)):
        case "program":
            return Party(workload=workload, program=draw(programs), address=address, listed=workload)
        case "sidecar":
            return Party(workload=workload, address=address, listed=workload, why_unidentified=Reason.SOCKET_SHARED)
        case "pending" if direction is Direction.EGRESS:
            return Party(workload=workload, address=address, listed=workload, is_pending=True)
        case "stranger":
            return Party(address=address)
        case "foreign":
            return Party(address=address, foreign=draw(st.sampled_from(FOREIGNERS)))
    why = Reason.MTLS_UNAVAILABLE if direction is Direction.EGRESS else None
    return Party(address=address, listed=workload, why_unidentified=why)


@st.composite
def scenarios(
    draw: st.DrawFn,
    *,
    directions: Sequence[Direction] = tuple(Direction),
    shapes: Sequence[str] = SHAPES,
    modes: Sequence[Mode] = tuple(Mode),
) -> Scenario:
    """Any connection, seen from either side; the arguments narrow it."""
    direction = draw(st.sampled_from(directions))
    own, far = draw(own_parties()), draw(far_parties(direction, shapes))
    source, destination = (own, far) if direction is Direction.EGRESS else (far, own)
    return Scenario(
        direction=direction,
        source=source,
        destination=destination,
        port=draw(ports),
        states={namespace: draw(states(namespace, modes)) for namespace in NAMESPACES},
    )
