"""Hosts in what was seen: a rule that names one counts for the addresses at which sidecars found it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from shared.model.adoption.blockers import find_blockers
from shared.model.adoption.difference import compare
from shared.model.adoption.fixes import FixKind, apply
from shared.model.adoption.seen import Seen, fill_in_hosts, see_record
from shared.model.identity.program import Program
from shared.model.policy.decision import Answer, PartyRecord
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Action, Approval, Direction, Mode, NamespaceState, Peer, PortRange, Rule
from tests.shared.model.policy.records import make_record

API, OTHER = "api.example.com", "other.example.com"
PROGRAM = Program(digest="a" * 64)
RULE = Rule(name="out", action=Action.ALLOW, direction=Direction.EGRESS, peers=(Peer(unidentified=True, hosts=(API,)),))


def make_state(*rules: Rule) -> NamespaceState:
    approvals = (Approval(service_account="web", program=PROGRAM),)
    return NamespaceState(namespace="shop", version=1, mode=Mode.PERMISSIVE, rules=rules, approvals=approvals)


def see(address: str, *hosts: str, **changes: Any) -> Seen:
    source = PartyRecord(address="198.18.0.2:40000", workload="shop/web", program=str(PROGRAM))
    destination = PartyRecord(address=address, hosts=hosts or msgspec.UNSET, why="peer_unidentified")
    record = make_record(
        source=source, destination=destination, answer=Answer.ALLOW, would_deny=not hosts,
        reason=Reason.EGRESS_NOT_ALLOWED, mode=Mode.PERMISSIVE, connection=address, **{"port": 443, **changes},
    )  # fmt: skip
    return see_record(record)


def test_what_was_seen_before_the_rule_gets_the_names_that_were_seen_since() -> None:
    seen = [see("192.0.2.7:443"), see("192.0.2.8:443"), see("192.0.2.7", API), see("[2001:db8::7]:443", API)]
    seen.append(see("2001:db8::7"))
    hosts = [each.destination.hosts for each in fill_in_hosts(seen)]
    assert hosts == [(API,), msgspec.UNSET, (API,), (API,), (API,)]
    assert list(fill_in_hosts(seen[:2])) == seen[:2]


def test_connections_whose_addresses_are_no_longer_told_apart_lend_one_another_no_names() -> None:
    seen = [see(""), see("", API)]
    assert [each.destination.hosts for each in fill_in_hosts(seen)] == [msgspec.UNSET, (API,)]
    (blocker,) = find_blockers(seen, {"shop": make_state(RULE)}, "shop").blockers
    assert blocker.seen.destination.hosts is msgspec.UNSET


def test_ready_counts_the_rule_for_addresses_at_which_the_host_was_found_and_for_no_others() -> None:
    states = {"shop": make_state(RULE)}
    assert find_blockers([see("192.0.2.7:443"), see("192.0.2.7:443", API)], states, "shop").blockers == ()
    (blocker,) = find_blockers([see("192.0.2.8:443"), see("192.0.2.7:443", API)], states, "shop").blockers
    assert blocker.seen.destination_address == "192.0.2.8:443"


@pytest.mark.parametrize(
    ("address", "hosts", "named"),
    [
        ("192.0.2.7:8443", (API,), (API,)),
        ("192.0.2.7:8443", (), ()),
        ("192.0.2.7:8443", (API, OTHER), ()),  # Which of both is meant isn't known.
        ("192.0.2.7:8443", ("elsewhere.example",), ()),  # A sidecar's word: no rule has that name.
        ("169.254.169.254:8443", (API,), ()),  # A name never means the metadata address.
    ],
)
def test_a_missing_rule_names_the_host_where_it_is_known_else_the_address(
    address: str, hosts: tuple[str, ...], named: tuple[str, ...]
) -> None:
    peers = (Peer(unidentified=True, hosts=(API, OTHER)),)
    https = msgspec.structs.replace(RULE, peers=peers, ports=(PortRange(first=443, last=443),))
    states = {"shop": make_state(https)}
    (blocker,) = find_blockers([see(address, *hosts, port=8443)], states, "shop").blockers
    assert blocker.fix is not None
    assert blocker.fix.rule is not None
    (peer,) = blocker.fix.rule.peers
    assert peer.hosts == named
    assert bool(peer.cidrs) is not bool(named)
    assert blocker.fix.rule.name == f"web-to-{API if named else address.partition(':')[0]}-8443"
    assert find_blockers([see(address, *hosts, port=8443)], apply([blocker.fix], states), "shop").blockers == ()


def test_a_difference_counts_a_removed_rule() -> None:
    seen = [see("192.0.2.7:443"), see("192.0.2.7:443", API)]
    found = compare(seen, {"shop": make_state(RULE)}, {"shop": make_state()})
    assert [(each.count, each.reason) for each in found.denied] == [(1, Reason.EGRESS_NOT_ALLOWED)]


def test_what_a_change_does_where_addresses_are_no_longer_told_apart_isnt_known() -> None:
    network = Peer(unidentified=True, cidrs=("192.0.2.0/24",))
    by_address = Rule(name="out", action=Action.ALLOW, direction=Direction.EGRESS, peers=(network,))
    found = compare([see("")], {"shop": make_state(by_address)}, {"shop": make_state()})
    assert (found.denied, found.allowed, found.unchanged, found.unknown) == ((), (), 0, 1)


def test_a_name_that_couldnt_be_resolved_is_no_reason_to_write_another_rule() -> None:
    each = see("192.0.2.7:443", detail="couldn't resolve api.example.com")
    destination = msgspec.structs.replace(each.destination, why=Reason.HOST_NOT_RESOLVED.value)
    each = msgspec.structs.replace(each, destination=destination, reason=Reason.HOST_NOT_RESOLVED)
    (blocker,) = find_blockers([each], {"shop": make_state(RULE)}, "shop").blockers
    assert (blocker.reason, blocker.fix.kind) == (Reason.HOST_NOT_RESOLVED, FixKind.ADVICE)
    assert "couldn't resolve api.example.com" in blocker.fix.advice
