"""What stands against explicit mode: earlier refusals, decided by the current rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest

import ca.observation.explicit_readiness
from ca.observation.explicit_readiness import find_refusals
from ca.store.edges.edge import EdgeEvidence, EdgeWindow, StoredEdge
from ca.store.edges.tally import make_key
from ca.store.store import Store
from shared.model.adoption.fixes import FixKind
from shared.model.adoption.program_queue import ProgramRefusal
from shared.model.identity.identity import Identity, Workload
from shared.model.policy.decision import Answer, DecisionRecord, PartyRecord, Phase
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Action, Approval, Direction, Mode, NamespaceState, Peer, Rule, WorkloadMode
from tests.ca.running import WEB, make_decision


@dataclass
class FewRecords:
    """What readiness asks the store."""

    records: list[DecisionRecord]
    state: NamespaceState
    issued: bool
    refused: tuple[ProgramRefusal, ...] = ()
    edges: tuple[StoredEdge, ...] = ()

    async def list_refusals(self, _namespace: str, *, since: float, limit: int) -> list[DecisionRecord]:
        return [record for record in self.records if record.time >= since][:limit]

    async def list_edges(self, _namespace: str, *, since: float) -> EdgeWindow:
        return EdgeWindow(edges=self.edges, since=since, until=since, is_truncated=False)

    async def get_state(self, namespace: str) -> NamespaceState:
        return self.state if namespace == "shop" else NamespaceState(namespace=namespace)

    async def list_all(self, namespace: str) -> list[ProgramRefusal]:
        return [each for each in self.refused if each.namespace == namespace]

    async def has_any(self, _workload: Workload, _identities: Sequence[Identity]) -> bool:
        return self.issued


def stored(
    *records: DecisionRecord,
    state: NamespaceState | None = None,
    issued: bool = True,
    refused: tuple[ProgramRefusal, ...] = (),
    edges: tuple[StoredEdge, ...] = (),
) -> Store:
    parts = FewRecords(list(records), state or NamespaceState(namespace="shop"), issued, refused, edges)
    return cast(
        "Store",
        SimpleNamespace(
            decisions=parts, namespaces=parts, edges=parts, ledger=parts, refusals=parts, trust_domain="touchmark.local"
        ),
    )


async def test_a_program_that_only_the_other_ends_sidecar_names_is_not_proposed_for_approval() -> None:
    """It may be compromised, and the program its own."""
    marked = make_decision("c", mode=Mode.PERMISSIVE, answer=Answer.ALLOW, would_deny=True)
    found = await find_refusals(stored(marked, issued=False), "shop", since=0)
    fixes = {cause.reason: cause.fix for cause in found.causes}
    own, others = fixes[Reason.LISTENER_NOT_APPROVED], fixes[Reason.PROGRAM_NOT_APPROVED]
    assert own is not None and (own.kind, own.workload) == (FixKind.APPROVE, "shop/db")
    assert others is not None and (others.kind, others.program) == (FixKind.ADVICE, "")
    assert "touchmark program approve shop/web --from-decisions" in others.advice
    # Its own sidecar has said so as well; or has asked for the program's certificate.
    both = (marked, msgspec.structs.replace(marked, direction=Direction.EGRESS, sidecar="b"))
    for store in (stored(*both, issued=False), stored(marked)):
        found = await find_refusals(store, "shop", since=0)
        assert {cause.fix.kind for cause in found.causes if cause.fix is not None} == {FixKind.APPROVE}


@pytest.mark.parametrize("namespace", ["bank", "shop"])
async def test_a_refusal_of_a_client_doesnt_hide_what_its_server_lacks(namespace: str) -> None:
    """Who may edit bank doesn't say that shop is ready: shop/db would get no certificate."""
    client = PartyRecord(address="198.18.0.3:41000", workload=f"{namespace}/web", program=str(WEB))
    marked = make_decision("c", mode=Mode.PERMISSIVE, answer=Answer.ALLOW, would_deny=True, source=client)
    refusal = ProgramRefusal(namespace=namespace, service_account="web", program=WEB, refused_by="mallory", refused=1.0)
    found = await find_refusals(stored(marked, refused=(refusal,)), "shop", since=0)
    needed = {cause.reason: cause.fix for cause in found.causes if cause.fix is not None}
    assert needed[Reason.LISTENER_NOT_APPROVED].workload == "shop/db"
    assert not any(fix.program == str(WEB) for fix in needed.values()), "nothing proposes what was refused"
    assert (Reason.PROGRAM_NOT_APPROVED in needed, len(found.refused)) == (
        (True, 0) if namespace == "bank" else (False, 1)
    )
    named_by_the_peer = msgspec.structs.replace(marked, direction=Direction.EGRESS, sidecar="b")
    if namespace == "shop":
        found = await find_refusals(stored(named_by_the_peer, refused=(refusal,), issued=False), "shop", since=0)
        assert (found.causes, len(found.refused)) == ((), 1), "a refused client's word about others"


async def test_a_connection_counts_once_whichever_sides_report_it() -> None:
    records = [make_decision("c1"), make_decision("c1", sidecar="b"), make_decision("c2", time=1_790_000_009.0)]
    found = await find_refusals(stored(*records), "shop", since=0)
    assert {(cause.reason, cause.connections, cause.last_seen) for cause in found.causes} == {
        (Reason.PROGRAM_NOT_APPROVED, 2, 1_790_000_009.0),
        (Reason.LISTENER_NOT_APPROVED, 2, 1_790_000_009.0),
    }, "one round shows both"
    assert (found.settled, found.is_truncated) == (0, False)


async def test_aggregates_of_one_cause_add_up_whichever_side_and_phase_they_are_of() -> None:
    own = [make_decision(f"c{number}") for number in range(50)]
    aggregates = [make_decision("", count=475, time=1_790_000_000.0 + second) for second in range(2)]
    other = PartyRecord(address="198.18.0.3:41000", workload="shop/web", program="sha256:" + "e" * 64)
    also = [make_decision("", count=7, source=other), make_decision("c9", source=other)]
    of_the_client = [make_decision("", count=1000, direction=Direction.EGRESS, sidecar="b")]
    starts = [make_decision("", count=20, phase=Phase.START)]
    found = await find_refusals(stored(*own, *aggregates, *also, *of_the_client, *starts), "shop", since=0)
    causes = {(cause.reason, cause.fix and cause.fix.program[:12]): cause.connections for cause in found.causes}
    assert sorted(count for (reason, _), count in causes.items() if reason is Reason.PROGRAM_NOT_APPROVED) == [8, 1000]
    assert (await find_refusals(stored(*own, *aggregates), "shop", since=0)).causes[0].connections == 1000


async def test_deny_rules_and_refusals_of_permissive_mode_do_not_stand_against_explicit() -> None:
    deny = NamespaceState(namespace="shop", rules=(Rule(name="no", action=Action.DENY),))
    found = await find_refusals(stored(make_decision("c"), state=deny), "shop", since=0)
    assert (found.causes, found.settled) == ((), 0)
    for mode in Mode:
        broken = make_decision("c", mode=mode, reason=Reason.APPLICATION_UNREACHABLE)
        found = await find_refusals(stored(broken), "shop", since=0)
        assert (found.causes, [each.reason for each in found.failures]) == ((), [Reason.APPLICATION_UNREACHABLE])


async def test_a_service_without_endpoints_is_no_missing_egress_rule() -> None:
    gone = make_decision(
        "c",
        mode=Mode.EXPLICIT,
        direction=Direction.EGRESS,
        reason=Reason.DESTINATION_UNREACHABLE,
        destination=PartyRecord(address="198.18.9.9:80"),
        detail="service shop/db has no ready endpoint",
    )
    state = NamespaceState(namespace="shop", approvals=(Approval(service_account="web", program=WEB),))
    found = await find_refusals(stored(gone, state=state), "shop", since=0)
    assert found.causes == ()
    (failure,) = found.failures
    assert failure.fix is not None
    assert "kubectl get endpointslices" in failure.fix.advice
    assert "shop/db has no ready endpoint" in failure.fix.advice


async def test_a_mark_stands_against_explicit_mode() -> None:
    marked = make_decision("c", mode=Mode.PERMISSIVE, answer=Answer.ALLOW, would_deny=True)
    assert len((await find_refusals(stored(marked), "shop", since=0)).causes) == 2


async def test_a_record_that_cannot_be_replayed_counts_as_it_was() -> None:
    odd = make_decision("c", reason=Reason.NO_RULE, source=PartyRecord(workload="no workload"))
    (cause,) = (await find_refusals(stored(odd), "shop", since=0)).causes
    assert cause.reason is Reason.NO_RULE


async def test_more_than_can_be_looked_at_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ca.observation.explicit_readiness, "MAX_REPLAYED", 2)
    records = [make_decision(f"c{number}") for number in range(3)]
    found = await find_refusals(stored(*records), "shop", since=0)
    assert (found.is_truncated, found.causes[0].connections) == (True, 2)


def send_plainly(source: str) -> DecisionRecord:
    """Make the record of plaintext to shop/db, whose sidecar didn't answer."""
    return make_decision(
        "c",
        mode=Mode.PERMISSIVE,
        answer=Answer.ALLOW,
        would_deny=True,
        reason=Reason.MTLS_UNAVAILABLE,
        direction=Direction.EGRESS,
        namespace=source.partition("/")[0],
        source=PartyRecord(address="198.18.0.3:41000", workload=source, program=str(WEB)),
        destination=PartyRecord(address="198.18.0.2:5432", listed="shop/db", why=Reason.MTLS_UNAVAILABLE),
    )


def sum_up(record: DecisionRecord, *, is_address_kept: bool = True) -> StoredEdge:
    """Return an edge of many such connections."""
    key = make_key(record, reporter="")
    if not is_address_kept:
        ends = {
            name: msgspec.structs.replace(end, address="")
            for name, end in (("source", key.source), ("destination", key.destination))
        }
        key = msgspec.structs.replace(key, **ends)
    evidence = EdgeEvidence(source=record.source.address, destination=record.destination.address)
    return StoredEdge(
        edge_id=1, key=key, evidence=evidence, opened=9, ended=9, bytes_sent=0, bytes_received=0, first=1.0, last=2.0,
        is_lossy=False,
    )  # fmt: skip


@pytest.mark.parametrize("source", ["shop/web", "bank/teller"])
@pytest.mark.parametrize("is_own_mode", [False, True])
async def test_a_workload_isnt_ready_while_others_send_it_plaintext(source: str, is_own_mode: bool) -> None:
    """Their sidecars alone may have seen it, and its mode is what refuses it."""
    modes = (WorkloadMode(service_account="db", mode=Mode.PERMISSIVE),) if is_own_mode else ()
    program = Approval(service_account="web", program=WEB)
    state = NamespaceState(namespace="shop", approvals=(program,), workload_modes=modes)
    record, is_own = send_plainly(source), source == "shop/web"
    store = stored(*([record] if is_own else []), state=state, edges=(sum_up(record),))

    async def ask(workload: str) -> set[Reason]:
        found = await find_refusals(store, "shop", since=0, workload=workload)
        return {cause.reason for cause in found.causes}

    assert Reason.MTLS_UNAVAILABLE in await ask("shop/db")
    assert await ask("shop/cache") == set()
    # The client's own mode refuses it as well.
    assert (Reason.MTLS_UNAVAILABLE in await ask("")) == (is_own or not is_own_mode)


async def test_plaintext_of_an_explicit_neighbour_is_refused_already() -> None:
    refused = msgspec.structs.replace(send_plainly("bank/teller"), answer=Answer.DENY, would_deny=False)
    found = await find_refusals(stored(edges=(sum_up(refused),)), "shop", since=0, workload="shop/db")
    assert found.causes == ()


@pytest.mark.parametrize("direction", Direction)
async def test_allowed_strangers_whose_addresses_werent_kept_apart_are_unclear_and_stand_against_nothing(
    direction: Direction,
) -> None:
    """A rule about addresses doesn't match what has none."""
    stranger = PartyRecord(address="198.18.7.7:443")
    own = PartyRecord(address="198.18.0.2:5432", workload="shop/db", program=str(WEB))
    is_egress = direction is Direction.EGRESS
    record = make_decision(
        "c",
        mode=Mode.PERMISSIVE,
        answer=Answer.ALLOW,
        reason=Reason.ALLOW_RULE,
        direction=direction,
        source=own if is_egress else stranger,
        destination=stranger if is_egress else own,
    )
    peer = Peer(unidentified=True, cidrs=("198.18.7.0/24",))
    rule = Rule(name="office", action=Action.ALLOW, direction=direction, peers=(peer,))
    approval = Approval(service_account="db", program=WEB)
    state = NamespaceState(namespace="shop", rules=(rule,), approvals=(approval,))
    kept = await find_refusals(stored(state=state, edges=(sum_up(record),)), "shop", since=0)
    assert (kept.causes, kept.unclear) == ((), 0)
    summed = (sum_up(record, is_address_kept=False),)
    found = await find_refusals(stored(state=state, edges=summed), "shop", since=0)
    assert (found.causes, found.unclear) == ((), 9)
    anywhere = msgspec.structs.replace(rule, peers=(Peer(unidentified=True, cidrs=("0.0.0.0/0",)),))
    settled = msgspec.structs.replace(state, rules=(anywhere,))
    assert (await find_refusals(stored(state=settled, edges=summed), "shop", since=0)).unclear == 0
    elsewhere = msgspec.structs.replace(rule, peers=(Peer(unidentified=True, cidrs=("198.18.9.0/24",)),))
    for rules in ((), (elsewhere,)):  # The newest of them would be refused: that is known.
        changed = msgspec.structs.replace(state, rules=rules)
        found = await find_refusals(stored(state=changed, edges=summed), "shop", since=0)
        (cause,) = found.causes
        assert cause.fix is not None and cause.fix.rule is not None
        assert (cause.fix.rule.peers[0].cidrs, cause.connections, found.unclear) == (("198.18.7.7/32",), 9, 0)
    taken_back = msgspec.structs.replace(state, approvals=())
    (cause,) = (await find_refusals(stored(state=taken_back, edges=summed), "shop", since=0)).causes
    assert cause.fix is not None
    assert (cause.fix.kind, cause.fix.workload) == (FixKind.APPROVE, "shop/db")
