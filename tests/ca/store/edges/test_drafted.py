"""What drafts say of edges' connections: counted whole, bounded, forgotten; on both databases."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import func, select

from ca.store.edges import drafted
from ca.store.edges.edge import DraftedWindow, Report
from ca.store.edges.tables import edge_drafts
from ca.store.store import Store
from shared.model.policy.decision import Answer, DecisionRecord, DraftVerdict, Ending, PartyRecord, Phase
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction, Mode, PolicyDraft
from tests.ca.founded import opened
from tests.shared.model.policy.records import make_record

pytestmark = pytest.mark.usefixtures("backend")
NOW = 500_000 * 3600.0 + 60
DENIED = DraftVerdict(answer=Answer.DENY, would_deny=False, reason=Reason.NO_RULE, rule="", drafts=())
SAME = DraftVerdict(answer=Answer.ALLOW, would_deny=False, reason=Reason.ALLOW_RULE, rule="shop/web", drafts=())


def decide(verdict: DraftVerdict, *drafts: str, port: int = 80, count: int = 1, **changes: object) -> DecisionRecord:
    said = DraftVerdict(
        answer=verdict.answer, would_deny=False, reason=verdict.reason, rule=verdict.rule, drafts=drafts
    )
    return make_record(
        **{
            "source": PartyRecord(address="198.18.0.2:9", workload="shop/web"),
            "destination": PartyRecord(address="198.18.0.3:80", workload="bank/api"),
            "namespace": "shop",
            "time": NOW,
            "port": port,
            "answer": Answer.ALLOW,
            "reason": Reason.ALLOW_RULE,
            "draft": said,
            "count": count,
            **changes,
        }
    )


async def put(store: Store, namespace: str = "shop") -> str:
    state = await store.drafts.put(namespace, PolicyDraft(number=0, mode=Mode.EXPLICIT))
    assert state.draft is not None
    return f"{namespace}@{state.draft.number}"


async def add(store: Store, *records: DecisionRecord, namespace: str = "shop", lost: int = 0) -> None:
    report = Report(instance=f"{namespace}-1", namespace=namespace, service_account="web", lost=lost)
    await store.edges.prepare(now=NOW)
    async with store.database.writing() as connection:
        await store.edges.add(connection, records, report, now=NOW)


async def ask(store: Store, draft: str) -> DraftedWindow:
    namespace, _, number = draft.rpartition("@")
    return await store.edges.list_drafted(namespace, int(number), written=NOW)


async def count_rows(store: Store) -> int:
    async with store.database.reading() as connection:
        return int(await connection.scalar(select(func.count()).select_from(edge_drafts)) or 0)


async def test_each_connection_counts_once_for_each_draft_that_took_part(tmp_path: Path) -> None:
    async with opened(tmp_path) as core:
        store = core.store
        shop, bank = await put(store), await put(store, "bank")
        assert (await ask(store, shop)).since is None
        start = decide(DENIED, shop, bank, phase=Phase.START, ending=Ending.NONE, time=NOW - 5)
        end = decide(DENIED, shop, bank, has_started=True)
        for record in (start, end, decide(DENIED, shop, bank, count=7), decide(SAME, shop, port=81, count=3)):
            await add(store, record)
        window = await ask(store, shop)
        (edge,) = window.edges
        assert (edge.key.port, edge.key.side, edge.verdict, edge.connections) == (80, Direction.EGRESS, DENIED, 8)
        assert (window.since, window.unchanged, window.uncounted, window.is_truncated) == (NOW - 5, 3, 0, False)
        other = await ask(store, bank)
        assert [each.connections for each in other.edges] == [8]
        assert (other.unchanged, other.since) == (0, None), "its own sidecars have said nothing"


async def test_edges_are_read_in_pages_and_listed_as_they_were_seen_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drafted, "_PAGE", 2)
    async with opened(tmp_path) as core:
        draft = await put(core.store)
        for port, age in ((1, 30), (2, 10), (3, 20), (4, 10), (5, 0)):
            await add(core.store, decide(DENIED, draft, port=port, time=NOW - age))
        window = await ask(core.store, draft)
        assert [each.key.port for each in window.edges] == [5, 2, 4, 3, 1]
        monkeypatch.setattr(drafted, "MAX_LISTED", 3)
        window = await ask(core.store, draft)
        assert ([each.key.port for each in window.edges], window.is_truncated) == ([5, 2, 4], True)


async def test_only_the_drafts_of_now_are_counted_and_only_by_who_is_concerned(tmp_path: Path) -> None:
    async with opened(tmp_path) as core:
        store = core.store
        former = await put(store)
        current, stranger = await put(store), await put(store, "other")
        await add(store, decide(DENIED, former, count=2), decide(DENIED, current), decide(DENIED, stranger, "nonsense"))
        assert await count_rows(store) == 1
        assert [each.connections for each in (await ask(store, current)).edges] == [1]
        await store.drafts.drop("shop")
        await store.edges.prune(max_age_s=1e9, max_bytes=10**9, now=NOW)
        assert await count_rows(store) == 0


async def test_what_has_no_room_or_was_lost_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others' sidecars don't use up the room of the namespace's own."""
    monkeypatch.setattr(drafted, "MAX_OWN", 2)
    monkeypatch.setattr(drafted, "MAX_OTHERS", 1)
    monkeypatch.setattr(drafted, "MAX_LISTED", 2)
    async with opened(tmp_path) as core:
        store = core.store
        draft = await put(store)
        for port in (1, 2):
            await add(
                store, decide(DENIED, draft, port=port, direction=Direction.INGRESS, namespace="bank"), namespace="bank"
            )
        await add(store, *(decide(DENIED, draft, port=port, count=5) for port in (1, 2, 3, 4)))
        await add(store, decide(DENIED, draft, port=1, count=5), lost=100)
        window = await ask(store, draft)
        assert (len(window.edges), window.is_truncated) == (2, True)
        assert window.uncounted == 1 + 2 * 5 + 100
        monkeypatch.setattr(drafted, "MAX_LISTED", 9)
        found = {(each.key.namespace, each.key.port): each.connections for each in (await ask(store, draft)).edges}
        assert found == {("shop", 1): 10, ("shop", 2): 5, ("bank", 1): 1}


async def test_what_is_said_of_a_forgotten_edge_is_forgotten(tmp_path: Path) -> None:
    async with opened(tmp_path) as core:
        store = core.store
        draft = await put(store)
        await add(store, decide(DENIED, draft))
        assert await count_rows(store) == 1
        while await store.edges.prune(max_age_s=1.0, max_bytes=10**9, now=NOW + 9 * 86_400):
            pass
        assert await count_rows(store) == 0
        assert (await ask(store, draft)).edges == ()
