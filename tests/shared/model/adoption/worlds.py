"""Generated worlds: namespaces with programs, approvals and rules, and connections that were seen in them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache

import msgspec

from shared.model.adoption.seen import Seen
from shared.model.identity.program import Program
from shared.model.policy.decision import Answer, PartyRecord
from shared.model.policy.evaluate import compile_namespace
from shared.model.policy.modes import change_modes, make_modes
from shared.model.policy.reasons import Reason
from shared.model.policy.replay import Attempt, compile_as, judge, read_attempt
from shared.model.policy.rules import Action, Approval, Direction, Mode, NamespaceState, Peer, PortRange, Rule

NAMESPACES = ("shop", "bank", "depot")
ACCOUNTS = ("web", "db", "job")
PROGRAMS = (*(Program(digest=digit * 64) for digit in "abc"), Program(digest="d" * 64, main="none"))
PORTS = (80, 5432)
STRANGERS = ("192.0.2.7", "2001:db8::7")
FOREIGN = "spiffe://elsewhere.example/ns/x/sa/y"
WHYS = ("no_owner", "process_traced", "holders_unknown", "ca_unavailable", "code_not_approved")


compiled = lru_cache(maxsize=64)(compile_as)
compiled_as_is = lru_cache(maxsize=64)(compile_namespace)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What is in force, and what was seen while all namespaces were permissive."""

    states: dict[str, NamespaceState]
    seen: list[Seen]


def draw_world(seed: int) -> World:
    """Draw a world."""
    rng = random.Random(seed)
    states = {name: _draw_state(rng, name) for name in NAMESPACES}
    seen = [each for number in range(rng.randrange(1, 7)) for each in draw_connection(rng, states, number)]
    return World(states=states, seen=seen)


def _draw_state(rng: random.Random, name: str) -> NamespaceState:
    approvals = tuple(
        Approval(service_account=account, program=program, weak=bool(program.main))
        for account in ACCOUNTS
        for program in PROGRAMS
        if rng.random() < 0.5
    )
    rules = tuple(_draw_rule(rng, number) for number in range(rng.randrange(4)))
    mode = rng.choice(list(Mode))
    modes = make_modes({account: rng.choice(list(Mode)) for account in ACCOUNTS if rng.random() < 0.3})
    return NamespaceState(namespace=name, version=1, mode=mode, approvals=approvals, rules=rules, workload_modes=modes)


def _draw_rule(rng: random.Random, number: int) -> Rule:
    peers = tuple(
        rng.choice(
            [
                Peer(namespace=rng.choice(NAMESPACES)),
                Peer(namespace=rng.choice(NAMESPACES), service_account=rng.choice(ACCOUNTS)),
                Peer(unidentified=True, cidrs=(rng.choice(("192.0.2.0/24", "2001:db8::/32", "198.18.0.0/15")),)),
                Peer(spiffe_id=FOREIGN),
            ]
        )
        for _ in range(rng.randrange(3))
    )
    port = rng.choice(PORTS)
    return Rule(
        name=f"rule-{number}",
        action=Action.DENY if rng.random() < 0.15 else Action.ALLOW,
        direction=rng.choice(list(Direction)),
        workloads=tuple(rng.sample(ACCOUNTS, rng.randrange(3))),
        peers=peers,
        ports=(PortRange(first=port, last=port),) if rng.random() < 0.5 else (),
    )


def draw_party(rng: random.Random, *, is_member: bool, host: str) -> PartyRecord:
    """Draw an end: a member with or without a program, or a stranger."""
    if not is_member:
        if rng.random() < 0.3:
            return PartyRecord(address=f"{host}:443", identity=FOREIGN)
        return PartyRecord(address=f"{host}:443", why="peer_unidentified")
    workload = f"{rng.choice(NAMESPACES)}/{rng.choice(ACCOUNTS)}"
    if rng.random() < 0.2:
        return PartyRecord(address=f"{host}:1", workload=workload, listed=workload, why=rng.choice(WHYS))
    return PartyRecord(address=f"{host}:1", workload=workload, listed=workload, program=str(rng.choice(PROGRAMS)))


def draw_connection(rng: random.Random, states: dict[str, NamespaceState], number: int) -> list[Seen]:
    """Draw a connection, as each of its sides in the mesh reports it when its namespace is permissive."""
    source_is_member, destination_is_member = rng.choice([(True, True), (True, False), (False, True)])
    hosts = ("198.18.0.2", "198.18.0.3")
    source = draw_party(rng, is_member=source_is_member, host=hosts[0] if source_is_member else rng.choice(STRANGERS))
    destination = draw_party(
        rng, is_member=destination_is_member, host=hosts[1] if destination_is_member else rng.choice(STRANGERS)
    )
    port = rng.choice(PORTS)
    sides = [
        (direction, party.workload.partition("/")[0])
        for direction, party in ((Direction.EGRESS, source), (Direction.INGRESS, destination))
        if party.workload
    ]
    return [
        report(states, direction, namespace, source, destination, port, connection=f"c{number}")
        for direction, namespace in sides
    ]


def report(
    states: dict[str, NamespaceState],
    direction: Direction,
    namespace: str,
    source: PartyRecord,
    destination: PartyRecord,
    port: int,
    *,
    connection: str,
) -> Seen:
    """Return what a side reports of a connection, by the evaluator that it enforces with."""
    attempt = read_attempt(direction, namespace, source=source, destination=destination, port=port)
    policies = {name: compiled(state, Mode.PERMISSIVE) for name, state in states.items()}
    verdict = judge(attempt, policies)
    return Seen(
        direction=direction,
        namespace=namespace,
        source=source,
        destination=destination,
        port=port,
        answer=Answer.ALLOW if verdict.allowed else Answer.DENY,
        would_deny=verdict.would_deny,
        reason=verdict.reason,
        mode=Mode.PERMISSIVE,
        connection=connection,
        source_address=source.address,
        destination_address=destination.address,
        first=1.0,
        last=2.0,
    )


def attempt_of(seen: Seen) -> Attempt:
    """Return what a side judged."""
    return read_attempt(
        seen.direction, seen.namespace, source=seen.source, destination=seen.destination, port=seen.port
    )


def refuses(states: dict[str, NamespaceState], namespace: str, seen: Seen) -> Reason | None:
    """Return why a side refuses the connection when its workload is explicit; None when it lets it pass."""
    name = (seen.own.workload or seen.own.listed).partition("/")[2]
    modes = change_modes(states[namespace].workload_modes, [name], Mode.EXPLICIT)
    explicit = {**states, namespace: msgspec.structs.replace(states[namespace], workload_modes=modes)}
    verdict = judge(attempt_of(seen), {name: compiled_as_is(state) for name, state in explicit.items()})
    return None if verdict.allowed else verdict.reason
