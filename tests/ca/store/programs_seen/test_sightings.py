"""Programs that were seen, in the store: added up, bounded for each workload, forgotten in the end."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from ca.store.programs_seen import sightings
from ca.store.programs_seen.sightings import KEPT_S
from ca.store.programs_seen.tables import program_sightings
from shared.model.adoption.program_queue import Sighting
from shared.model.identity.loaded_code import LoadedCode, LoadedObject
from shared.model.identity.program import Program
from tests.ca.founded import NOW, opened


def see(number: int, *, service_account: str = "web", last: float = NOW, **changes: object) -> Sighting:
    seen = Sighting(
        namespace="shop", service_account=service_account, program=Program(digest=f"{number:064x}"), path="/srv/web",
        first=last, last=last,
    )  # fmt: skip
    return msgspec.structs.replace(seen, **changes)


async def test_sightings_of_one_program_are_one_also_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        await core.store.sightings.add([see(1, pods=("a",)), see(2)])
    async with opened(tmp_path / "d") as core:
        await core.store.sightings.add([see(1, pods=("b",), last=NOW + 9, first=NOW + 9)])
        newest, older = await core.store.sightings.list_all("shop")
        assert (newest.pods, newest.first, newest.last) == (("b", "a"), NOW, NOW + 9)
        assert older == see(2)
        assert await core.store.sightings.list_all("bank") == []
        assert len(await core.store.sightings.list_all()) == 2


async def test_of_a_workload_that_runs_ever_new_programs_the_latest_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sightings, "MAX_PER_WORKLOAD", 3)
    async with opened(tmp_path / "d") as core:
        await core.store.sightings.add([see(9, service_account="db", last=NOW - 50)])
        for number in range(5):
            await core.store.sightings.add([see(number, last=NOW + number)])
        kept = await core.store.sightings.list_all()
        assert [(each.service_account, int(each.program.digest, 16)) for each in kept] == [
            ("web", 4), ("web", 3), ("web", 2), ("db", 9),
        ]  # fmt: skip


async def test_some_programs_of_some_workloads_are_read_whole(tmp_path: Path) -> None:
    code = LoadedCode(objects=(LoadedObject(path="/lib/x", digest="a" * 64),))
    async with opened(tmp_path / "d") as core:
        await core.store.sightings.add([see(1), see(2, service_account="db"), see(3)])
        await core.store.sightings.add([see(1, code=code, last=NOW + 1)])
        wanted = [("web", see(1).program), ("db", see(2).program), ("db", see(3).program)]
        found = await core.store.sightings.list_of("shop", wanted)
        assert {(each.service_account, each.program, each.code) for each in found} == {
            ("db", see(2).program, None), ("web", see(1).program, code),
        }  # fmt: skip
        assert [each.told for each in found if each.code] == [(int(NOW + 1),)]
        assert [each.told for each in await core.store.sightings.list_all()] == [()] * 3, "for adding up alone"
        assert await core.store.sightings.list_of("bank", wanted) == []


async def test_what_wasnt_seen_for_a_month_is_forgotten(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        await core.store.sightings.add([see(1, last=NOW - KEPT_S - 1), see(2)])
        assert await core.store.sightings.prune(now=NOW) == 1
        assert [each.program for each in await core.store.sightings.list_all()] == [see(2).program]
    assert [column.name for column in program_sightings.primary_key] == ["namespace", "service_account", "program"]


async def test_loaded_code_is_listed_within_a_bound_of_bytes_and_not_of_what_was_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = LoadedCode(objects=(LoadedObject(path="/lib/x", digest="aa" * 32),))
    size = len(msgspec.json.encode(see(1, code=code)))
    monkeypatch.setattr(sightings, "MAX_CODE_PER_WORKLOAD", 2 * size + size // 2)
    async with opened(tmp_path / "d") as core:
        await core.store.sightings.add([see(number, code=code, last=NOW + number) for number in range(5)])
        await core.store.sightings.add([see(0, service_account="db", code=code, last=NOW - 1)])
        listed = await core.store.sightings.list_newest(answered={see(4).key})
        assert [each.code is not None for each in listed.sightings] == [False, True, True, False, False, True]
        assert not listed.is_truncated
        monkeypatch.setattr(sightings, "MAX_READ", 3)
        assert len((await core.store.sightings.list_newest()).sightings) == 3
        assert (await core.store.sightings.list_newest()).is_truncated
        assert not (await core.store.sightings.list_newest("bank")).is_truncated
