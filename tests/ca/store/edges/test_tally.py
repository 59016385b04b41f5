"""What a batch adds, as a sum that doesn't depend on the order of records."""

from __future__ import annotations

import itertools

import msgspec

from ca.store.edges.edge import EdgeEvidence
from ca.store.edges.tally import MAX_PODS, make_evidence, make_key, tally
from shared.model.policy.decision import Answer, Ending, PartyRecord, Phase
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction
from tests.shared.model.policy.records import make_record

ALLOW = make_record(answer=Answer.ALLOW, reason=Reason.ALLOW_RULE, time=7200.0, ending=Ending.FINISHED)


def test_a_long_connection_counts_once_in_the_hour_in_which_it_began() -> None:
    start = msgspec.structs.replace(ALLOW, phase=Phase.START, ending=Ending.NONE)
    end = msgspec.structs.replace(ALLOW, time=20_000.0, has_started=True, bytes_sent=5)
    for order in itertools.permutations([start, end, ALLOW]):
        (addition,) = tally(order, reporter="shop/web", now=20_000.0).values()
        sums = {hour: (each.opened, each.ended, each.bytes_sent) for hour, each in addition.sums.items()}
        assert sums == {2: (2, 1, 0), 5: (0, 1, 5)}
        assert addition.newest is end


def test_an_edge_is_named_by_who_is_there_and_not_by_ports_or_pods() -> None:
    one = make_key(ALLOW, reporter="shop/web")
    other = msgspec.structs.replace(
        ALLOW, source=PartyRecord(address="198.18.0.9:1", workload="shop/web", approved=True), sidecar="web-2"
    )
    assert make_key(other, reporter="shop/web") == one
    assert one.destination.address == "198.18.0.3"
    named = msgspec.structs.replace(ALLOW, destination=PartyRecord(address="[2001:db8::1]:80", listed="shop/db"))
    assert make_key(named, reporter="shop/web").destination == PartyRecord(listed="shop/db")
    stranger = msgspec.structs.replace(ALLOW, destination=PartyRecord(address="[2001:db8::1]:80"))
    assert make_key(stranger, reporter="shop/web").destination.address == "2001:db8::1"


def test_the_reporter_is_at_its_own_end() -> None:
    """A connection that was refused before anything was known of it names neither end."""
    unnamed = msgspec.structs.replace(ALLOW, source=PartyRecord(address="198.18.0.2:1"), service="shop/db:5432")
    assert make_key(unnamed, reporter="shop/web").source == PartyRecord(listed="shop/web")
    assert make_key(unnamed, reporter="shop/web").service == "shop/db:5432"
    inbound = msgspec.structs.replace(unnamed, direction=Direction.INGRESS)
    key = make_key(inbound, reporter="shop/db")
    assert (key.source.address, key.destination.listed, key.service) == ("198.18.0.2", "shop/db", "")


def test_a_listener_without_a_connection_is_no_edge() -> None:
    withheld = msgspec.structs.replace(ALLOW, direction=Direction.INGRESS, source=PartyRecord())
    assert tally([withheld], reporter="shop/web", now=7200.0) == {}


def test_evidence_names_the_last_pods() -> None:
    evidence = EdgeEvidence()
    for number in range(MAX_PODS + 2):
        record = msgspec.structs.replace(ALLOW, sidecar=f"web-{number}", detail="x" * 900)
        (addition,) = tally([record], reporter="shop/web", now=7200.0).values()
        evidence = make_evidence(addition, make_evidence(addition, evidence))
    assert evidence.pods == tuple(f"web-{number}" for number in range(2, MAX_PODS + 2))
    assert len(evidence.detail) == 200


def test_an_edge_keeps_the_hosts_of_its_destination_and_older_edges_keep_their_names() -> None:
    plain = make_record()
    named = make_record(destination=PartyRecord(address="192.0.2.7:443", hosts=("api.example.com",)))
    assert make_key(named, reporter="shop/web").destination.hosts == ("api.example.com",)
    assert b"hosts" not in msgspec.json.encode(make_key(plain, reporter="shop/web"))
