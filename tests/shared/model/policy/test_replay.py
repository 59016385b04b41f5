"""A recorded connection is decided again by the current rules."""

from __future__ import annotations

import msgspec
import pytest

from shared.model.errors import IdentityError
from shared.model.identity.program import Program
from shared.model.policy.decision import (
    Answer,
    DecisionRecord,
    Ending,
    PartyRecord,
    Transport,
)
from shared.model.policy.reasons import Reason
from shared.model.policy.replay import compile_as, judge, party_namespaces, read_attempt, replay
from shared.model.policy.rules import Action, Approval, Direction, Mode, NamespaceState, Peer, PortRange, Rule
from tests.shared.model.policy.records import make_record

CURL, NGINX = Program(digest="a" * 64), Program(digest="b" * 64)
RECORD = make_record(
    time=1_790_000_000.0,
    sidecar="s",
    direction=Direction.INGRESS,
    answer=Answer.ALLOW,
    would_deny=True,
    mode=Mode.PERMISSIVE,
    source=PartyRecord(address="198.18.0.3:40000", workload="clients/curl", program=str(CURL)),
    destination=PartyRecord(address="198.18.0.2:8080", workload="shop/web", listed="shop/web", program=str(NGINX)),
    port=8080,
    transport=Transport.TUNNEL,
    tunnel="t",
    connection="c",
    ending=Ending.FINISHED,
)
SHOP = NamespaceState(
    namespace="shop",
    version=2,
    rules=(
        Rule(
            name="in", action=Action.ALLOW, peers=(Peer(namespace="clients"),), ports=(PortRange(first=1, last=9000),)
        ),
    ),
    approvals=(Approval(service_account="web", program=NGINX),),
)
CLIENTS = NamespaceState(namespace="clients", version=2, approvals=(Approval(service_account="curl", program=CURL),))


def decide(record: DecisionRecord, *states: NamespaceState, mode: Mode = Mode.EXPLICIT) -> tuple[bool, Reason]:
    verdict = replay(record, {state.namespace: compile_as(state, mode) for state in states})
    return verdict.allowed, verdict.reason


def test_what_was_approved_and_allowed_since_passes_and_what_was_not_does_not() -> None:
    assert party_namespaces(RECORD) == {"shop", "clients"}
    assert decide(RECORD, SHOP, CLIENTS) == (True, Reason.ALLOW_RULE)
    nobody = NamespaceState(namespace="clients")
    assert decide(RECORD, SHOP, nobody) == (False, Reason.PROGRAM_NOT_APPROVED)
    assert decide(RECORD, msgspec.structs.replace(SHOP, rules=()), CLIENTS) == (False, Reason.NO_RULE)
    assert decide(RECORD, SHOP, nobody, mode=Mode.PERMISSIVE) == (True, Reason.PROGRAM_NOT_APPROVED)


def test_a_stranger_keeps_its_address_and_a_failed_attestation_its_reason() -> None:
    stranger = msgspec.structs.replace(
        RECORD, source=PartyRecord(address="[2001:db8::9]:4711", why="peer_unidentified")
    )
    assert decide(stranger, SHOP) == (False, Reason.PEER_UNIDENTIFIED)
    rule = Rule(name="v6", action=Action.ALLOW, peers=(Peer(unidentified=True, cidrs=("2001:db8::/32",)),))
    assert decide(stranger, msgspec.structs.replace(SHOP, rules=(rule,))) == (True, Reason.ALLOW_RULE)
    ownerless = msgspec.structs.replace(
        RECORD, source=PartyRecord(address="198.18.0.3:1", workload="clients/curl", why="no_owner")
    )
    assert decide(ownerless, SHOP, CLIENTS) == (False, Reason.NO_OWNER)


def test_a_denial_before_the_tunnel_was_dialled_is_decided_with_the_peers_program_pending() -> None:
    refused = msgspec.structs.replace(
        RECORD,
        namespace="clients",
        direction=Direction.EGRESS,
        destination=PartyRecord(address="198.18.0.2:8080", workload="shop/web", listed="shop/web"),
    )
    assert decide(refused, SHOP, CLIENTS) == (True, Reason.ALLOW_RULE)
    plain = msgspec.structs.replace(
        refused, destination=PartyRecord(address="198.18.0.2:8080", listed="shop/web", why="mtls_unavailable")
    )
    assert decide(plain, SHOP, CLIENTS) == (False, Reason.MTLS_UNAVAILABLE)


def test_a_malformed_record_is_said_to_be_one() -> None:
    with pytest.raises(IdentityError):
        replay(
            msgspec.structs.replace(RECORD, source=PartyRecord(workload="clients/curl", program="sha256:nonsense")),
            {"shop": compile_as(SHOP, Mode.EXPLICIT), "clients": compile_as(CLIENTS, Mode.EXPLICIT)},
        )


def test_a_readiness_that_was_withheld_is_settled_by_the_listeners_approval_alone() -> None:
    """There is no connection, so no allow rule applies."""
    withheld = msgspec.structs.replace(
        RECORD,
        answer=Answer.DENY,
        would_deny=False,
        reason=Reason.LISTENER_NOT_APPROVED,
        source=PartyRecord(why="peer_unidentified"),
    )
    bare = NamespaceState(namespace="shop", version=3)
    for state, mode, allowed, would_deny in (
        (bare, Mode.EXPLICIT, False, False),
        (bare, Mode.PERMISSIVE, True, True),
        (SHOP, Mode.EXPLICIT, True, False),
        (SHOP, Mode.PERMISSIVE, True, False),
    ):
        verdict = replay(withheld, {"shop": compile_as(state, mode)})
        assert (verdict.allowed, verdict.would_deny) == (allowed, would_deny)
        assert verdict.reason is Reason.LISTENER_NOT_APPROVED
    unknown = msgspec.structs.replace(
        withheld, destination=PartyRecord(address="198.18.0.2:8080", workload="shop/web", why="no_owner")
    )
    assert not replay(unknown, {"shop": compile_as(SHOP, Mode.EXPLICIT)}).allowed


def test_a_foreign_peer_is_decided_by_its_recorded_identity() -> None:
    foreign = "spiffe://partner.example/billing"
    record = msgspec.structs.replace(
        RECORD, source=PartyRecord(address="203.0.113.7:40000", identity=foreign), transport=Transport.MTLS
    )
    policies = {"shop": compile_as(SHOP, Mode.EXPLICIT)}
    assert party_namespaces(record) == {"shop"}
    assert replay(record, policies).reason is Reason.FOREIGN_NOT_ALLOWED
    rule = Rule(name="partner", action=Action.ALLOW, peers=(Peer(spiffe_id="spiffe://partner.example/*"),))
    allowing = {"shop": compile_as(msgspec.structs.replace(SHOP, rules=(rule,)), Mode.EXPLICIT)}
    assert replay(record, allowing).rule == "shop/partner"


@pytest.mark.parametrize("address", ["192.0.2.7:443", "192.0.2.7", "[2001:db8::7]:443", "2001:db8::7"])
def test_networks_match_a_records_address_and_an_edges_which_has_no_port(address: str) -> None:
    peer = Peer(unidentified=True, cidrs=("192.0.2.0/24", "2001:db8::/32"))
    rule = Rule(name="out", action=Action.ALLOW, direction=Direction.EGRESS, peers=(peer,))
    approvals = (Approval(service_account="web", program=CURL),)
    shop = compile_as(NamespaceState(namespace="shop", rules=(rule,), approvals=approvals), Mode.EXPLICIT)
    source = PartyRecord(workload="shop/web", program=str(CURL))
    destination = PartyRecord(address=address, why="peer_unidentified")
    attempt = read_attempt(Direction.EGRESS, "shop", source=source, destination=destination, port=443)
    assert judge(attempt, {"shop": shop}).rule == "shop/out"


@pytest.mark.parametrize("address", ["", "several", "192.0.2:443"])
def test_what_is_no_address_is_read_as_none(address: str) -> None:
    party = PartyRecord(address=address)
    assert read_attempt(Direction.EGRESS, "shop", source=party, destination=party, port=443).destination.address is None
