"""Signs of life, and marks that rise with each change."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import update

from ca.store import replicas as replicas_module
from ca.store.replicas import Marks
from ca.store.tables import replicas, sidecars
from shared.model.policy.rules import Mode
from shared.model.wire.messages import Registration
from tests.ca.founded import NOW, WEB, Founded, join, opened, spend
from tests.ca.running import make_decision
from tests.sidecar.partner import Partner

PARTNER = Partner()


async def test_each_change_raises_its_mark_and_no_other(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        store, before = core.store, await core.store.replicas.read_marks()

        async def raised() -> list[str]:
            nonlocal before
            now = await store.replicas.read_marks()
            names = [name for name in Marks.__slots__ if getattr(now, name) != getattr(before, name)]
            before = now
            return names

        await store.namespaces.set_mode("shop", Mode.EXPLICIT)
        assert await raised() == ["namespaces"]
        await store.namespaces.set_labels(WEB, {"team": "red"})
        assert await raised() == ["namespaces"]
        await join(core, "web-1")
        assert await raised() == ["registrations"]
        await store.decisions.insert([make_decision("c")])
        assert await raised() == ["decisions"]
        await store.foreign.put(PARTNER.roots, now=NOW)
        assert await raised() == ["foreign"]
        await store.foreign.delete(PARTNER.domain)
        assert await raised() == ["foreign"]
        await store.sidecars.mark_seen("web-1", connected=False, now=NOW)
        assert await raised() == []


async def test_labels_of_a_spent_token_raise_the_namespaces_mark(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        before = (await core.store.replicas.read_marks()).namespaces
        record, secret = await core.store.join_tokens.create(
            workload=WEB, addresses=[], labels={"team": "red"}, expires=NOW + 60, now=NOW
        )
        await spend(core.store, record.token_id, secret, "a", now=NOW)
        assert (await core.store.replicas.read_marks()).namespaces == before + 1


async def is_connected(core: Founded, instance: str) -> bool:
    record = await core.store.sidecars.get(instance)
    return record is not None and record.connected


async def test_streams_end_with_their_replica(tmp_path: Path) -> None:
    place = tmp_path / "d"
    async with opened(place, replica="one") as core, opened(place, replica="two") as other:
        await join(core, "web-1")
        await join(other, "web-2")
        assert (await core.store.replicas.beat({"web-1"}), await other.store.replicas.beat()) == (
            1,
            0,
        )  # No sign of "two" yet.
        assert await core.store.replicas.list_alive() == ["one", "two"]
        assert await is_connected(core, "web-1")
        # It was taken for dead, and is not: its open streams are noted again.
        assert not await is_connected(core, "web-2")
        await other.store.replicas.beat({"web-2", "elsewhere"})
        assert await is_connected(core, "web-2")
        async with core.store.database.writing() as connection:
            old = replicas.c.seen - replicas_module.REPLICA_DEAD_S - 1
            await connection.execute(update(replicas).where(replicas.c.replica == "two").values(seen=old))
        assert await core.store.replicas.beat({"web-1"}) == 1
        assert await core.store.replicas.list_alive() == ["one"]
        await core.store.replicas.leave()
        assert not await is_connected(core, "web-1")
        assert await core.store.replicas.list_alive() == []


async def test_a_stream_whose_end_was_never_noted_is_closed_after_a_while(tmp_path: Path) -> None:
    place = tmp_path / "d"
    async with opened(place, replica="one") as core, opened(place, replica="two") as other:
        await other.store.replicas.beat()
        for name in ("ended", "open", "just-opened"):
            await join(core, name)
        await join(other, "elsewhere")
        async with core.store.database.writing() as connection:
            clock = await core.store.database.read_clock(connection)
            old = update(sidecars).values(last_seen=clock - replicas_module.REPLICA_DEAD_S - 1)
            await connection.execute(old)
            new = update(sidecars).where(sidecars.c.instance == "just-opened").values(last_seen=clock + 3600)
            await connection.execute(new)
        assert await core.store.replicas.beat({"open"}) == 0
        names = ("ended", "open", "just-opened", "elsewhere")
        assert [await is_connected(core, name) for name in names] == [False, True, True, True]


async def test_only_this_replicas_streams_are_closed_at_its_start_and_by_its_word(tmp_path: Path) -> None:
    place = tmp_path / "d"
    async with opened(place, replica="one") as core, opened(place, replica="two") as other:
        await join(core, "web-1")
        grant = await join(other, "web-2")
        await core.store.sidecars.disconnect_all()
        assert not await is_connected(core, "web-1")
        assert await is_connected(core, "web-2")
        # It moves: what the replica before says of its stream is no longer about its current stream.
        assert await other.store.replicas.find_moved({"web-1", "web-2"}) == []
        moved = Registration(instance="web-2", version="0", addresses=(), tunnel_port=15008, capture="listeners")
        await core.store.sidecars.register(grant, moved, now=NOW)
        assert await other.store.replicas.find_moved({"web-1", "web-2"}) == ["web-2"]
        assert await core.store.replicas.find_moved({"web-2"}) == await other.store.replicas.find_moved(()) == []
        await other.store.sidecars.mark_seen("web-2", connected=False, now=NOW)
        assert await is_connected(core, "web-2")


@pytest.mark.parametrize("text", ["a\0b", "\0"])
async def test_no_text_of_a_sidecar_stops_a_batch(tmp_path: Path, text: str) -> None:
    async with opened(tmp_path / "d") as core:
        assert await core.store.decisions.insert([make_decision(text)]) > 0
