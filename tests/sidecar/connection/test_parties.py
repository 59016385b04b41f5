"""Both ends of a connection: which policies are asked, and what a change of destination forgets."""

from __future__ import annotations

from msgspec.structs import replace

from shared.model.policy.evaluate import compile_namespace
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction, Mode, NamespaceState
from sidecar.connection.parties import Parties
from tests.sidecar.pair import CLIENT, CLIENT_PROGRAM, SERVER, SERVER_PROGRAM, FakePolicies, approve

SOURCE, DESTINATION = ("198.18.0.1", 40000), ("198.18.0.2", 5432)
STATES = {"shop": approve((CLIENT, CLIENT_PROGRAM)), "elsewhere": NamespaceState(namespace="elsewhere", version=7)}


def known(direction: Direction) -> Parties:
    parties = Parties(direction, source=SOURCE, destination=DESTINATION)
    there = replace(SERVER, namespace="elsewhere")
    near, far = (CLIENT, there) if direction is Direction.EGRESS else (there, CLIENT)
    parties.source = replace(parties.source, workload=near, program=CLIENT_PROGRAM)
    parties.destination = replace(parties.destination, workload=far, program=SERVER_PROGRAM)
    return parties


def test_the_local_ends_policy_is_the_sidecars_own() -> None:
    policies = FakePolicies("shop", STATES)
    own, other = compile_namespace(STATES["shop"]).state, compile_namespace(STATES["elsewhere"]).state
    source, destination = known(Direction.EGRESS).find_policies(policies)
    assert source is not None
    assert destination is not None
    assert (source.state, destination.state) == (own, other)
    source, destination = known(Direction.INGRESS).find_policies(policies)
    assert source is not None
    assert destination is not None
    assert (source.state, destination.state) == (other, own)


def test_a_namespace_whose_policy_isnt_known_has_none() -> None:
    policies = FakePolicies("shop", {"shop": STATES["shop"]})
    assert known(Direction.EGRESS).find_policies(policies)[1] is None


def test_the_verdict_is_that_of_the_current_policies() -> None:
    policies = FakePolicies("shop", dict(STATES))
    parties = known(Direction.EGRESS)
    parties.destination = replace(parties.destination, workload=SERVER)
    assert parties.evaluate(policies).reason is Reason.LISTENER_NOT_APPROVED
    policies.states["shop"] = approve((CLIENT, CLIENT_PROGRAM), (SERVER, SERVER_PROGRAM), mode=Mode.EXPLICIT)
    assert parties.evaluate(policies).allowed


def test_nothing_of_an_earlier_destination_stays() -> None:
    parties = known(Direction.EGRESS)
    parties.issuer = "issuer"
    parties.turn_to(("198.18.0.3", 80))
    assert (parties.destination_endpoint, parties.port) == (("198.18.0.3", 80), 80)
    assert str(parties.destination.address) == "198.18.0.3"
    assert (parties.destination.workload, parties.destination.program, parties.issuer) == (None, None, "")
    assert parties.source.workload == CLIENT
