"""What sidecars say of programs: checked, gathered within a bound, kept when the store fails."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from ca.observation import programs_seen
from ca.observation.programs_seen import ProgramsSeen
from ca.store.programs_seen import sightings
from ca.store.programs_seen.sightings import MAX_PER_WRITE
from shared.model.adoption.program_queue import ProgramRefusal, Sighting
from shared.model.errors import ProtocolError, UnavailableError
from shared.model.identity.identity import Workload
from shared.model.identity.loaded_code import LoadedCode, LoadedObject
from shared.model.identity.program import Program
from shared.model.wire.messages import ProgramEvidence, ProgramSeen
from tests.ca.founded import DATABASE, NOW, WEB, opened

CURL = Program(digest="aa" * 32)
HUGE = LoadedCode(objects=tuple(LoadedObject(path="/" + "x" * 200, digest=f"{n:064x}") for n in range(400)))


@pytest.mark.parametrize(
    "message",
    [
        ProgramSeen(program=CURL, path="/a\x1b[31m"),
        ProgramSeen(program=CURL, path="/" * 1_025),
        ProgramSeen(program=CURL, package="x" * 201),
        ProgramSeen(program=CURL, parents=("/a\n",)),
        ProgramSeen(program=CURL, parents=("/a",) * 9),
        ProgramSeen(program=CURL, container="../x"),
        ProgramSeen(program=CURL, code=HUGE),
    ],
    ids=["escape", "long path", "long package", "newline", "many parents", "no container", "too much code"],
)
def test_what_no_program_is_like_is_refused(message: ProgramSeen) -> None:
    programs = ProgramsSeen(cast("Any", None), clock=lambda: NOW)
    with pytest.raises(ProtocolError):
        programs.take(message, instance="a", workload=WEB, image="")


class FailingStore:
    """Fails once, or never, then keeps what it is given."""

    def __init__(self, *, has_failed: bool = False) -> None:
        self.sightings = self
        self.kept: list[Sighting] = []
        self.most = 0
        self.has_failed = has_failed

    async def add(self, sightings: Iterable[Sighting]) -> None:
        if not self.has_failed:
            self.has_failed = True
            raise UnavailableError("the disk is full")
        new = list(sightings)
        self.most = max(self.most, len(new))
        self.kept += new


async def test_what_is_gathered_is_bounded_and_kept_while_the_store_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs_seen, "MAX_GATHERED", 2)
    store = FailingStore()
    programs = ProgramsSeen(cast("Any", store), clock=lambda: NOW)
    for number in range(3):
        program = Program(digest=f"{number:064x}")
        programs.note_request(program, ProgramEvidence(path="/bin/x"), instance="a", workload=WEB)
    with pytest.raises(UnavailableError):
        await programs.flush()
    await programs.flush()
    await programs.flush()
    assert {int(each.program.digest, 16) for each in store.kept} == {1, 2}
    assert len(store.kept) == 2


def say(number: int, *, code: LoadedCode | None = None) -> ProgramSeen:
    return ProgramSeen(program=Program(digest=f"{number:064x}"), path="/x", code=code)


async def test_a_sidecar_that_invents_programs_takes_room_of_its_own_workload_alone() -> None:
    store = FailingStore(has_failed=True)
    programs = ProgramsSeen(cast("Any", store), clock=lambda: NOW)
    programs.take(say(1), instance="victim", workload=DATABASE, image="")
    for number in range(5_000):
        programs.take(say(number), instance="evil", workload=WEB, image="")
    await programs.flush()
    of_db = [each for each in store.kept if each.service_account == "db"]
    of_web = [int(each.program.digest, 16) for each in store.kept if each.service_account == "web"]
    assert len(of_db) == 1
    burst, kept = programs_seen.BURST, programs_seen.MAX_GATHERED_PER_WORKLOAD
    assert sorted(of_web) == list(range(burst - kept, burst)), "its burst, and of that what is kept of a workload"
    assert store.most <= MAX_PER_WRITE, "other writers wait for a short transaction only"


async def test_of_many_workloads_the_one_with_most_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs_seen, "MAX_GATHERED", 5)
    store = FailingStore(has_failed=True)
    programs = ProgramsSeen(cast("Any", store), clock=lambda: NOW)
    programs.take(say(1), instance="victim", workload=DATABASE, image="")
    for number in range(20):
        programs.take(say(number), instance=f"evil-{number}", workload=WEB, image="")
    await programs.flush()
    assert [(each.service_account, int(each.program.digest, 16)) for each in store.kept] == [
        ("db", 1), ("web", 16), ("web", 17), ("web", 18), ("web", 19),
    ]  # fmt: skip


async def test_loaded_code_is_gathered_within_a_bound_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    code = LoadedCode(objects=HUGE.objects[:100])
    size = len(msgspec.json.encode(code))
    monkeypatch.setattr(programs_seen, "MAX_CODE_PER_WORKLOAD", 2 * size)
    monkeypatch.setattr(programs_seen, "MAX_CODE_GATHERED", 3 * size)
    store = FailingStore(has_failed=True)
    programs = ProgramsSeen(cast("Any", store), clock=lambda: NOW)
    for workload in (WEB, DATABASE, Workload(namespace="bank", service_account="x")):
        for number in range(4):
            for _ in range(2):  # Said again, it counts once.
                programs.take(say(number, code=code), instance=str(workload), workload=workload, image="")
    await programs.flush()
    with_code = [(each.namespace, each.service_account) for each in store.kept if each.code is not None]
    assert with_code == [("shop", "db"), ("shop", "web"), ("shop", "web")]
    assert len(store.kept) == 12


async def test_what_finds_no_room_is_written_at_once_and_nothing_of_it_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody told it again for half an hour, in which nothing was called ready."""
    code = LoadedCode(objects=HUGE.objects[:100])
    monkeypatch.setattr(programs_seen, "MAX_CODE_PER_WORKLOAD", 2 * len(msgspec.json.encode(code)))
    store = FailingStore(has_failed=True)
    programs = ProgramsSeen(cast("Any", store), clock=lambda: NOW)
    for number in range(5):
        await programs.make_room(say(number, code=code), workload=WEB)
        programs.take(say(number, code=code), instance="a", workload=WEB)
    await programs.flush()
    assert [int(each.program.digest, 16) for each in store.kept if each.code is not None] == list(range(5))
    store.has_failed = False
    for number in (1, 2):
        programs.take(say(number, code=code), instance="a", workload=WEB)
    with pytest.raises(UnavailableError):
        await programs.make_room(say(3, code=code), workload=WEB)
    await programs.make_room(say(2, code=HUGE), workload=WEB)  # Which isn't taken anyway.


async def test_a_queue_that_is_cut_says_so_and_what_was_answered_takes_no_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sightings, "MAX_LISTED", 2)
    now = NOW
    async with opened(tmp_path / "d") as core:
        programs = ProgramsSeen(core.store, clock=lambda: now)
        for number in range(5):
            now = NOW + number
            programs.take(say(number, code=LoadedCode(objects=HUGE.objects[:1])), instance="a", workload=WEB, image="i")
        cut = await programs.list_queue()
        assert ([int(each.seen.program.digest, 16) for each in cut.waiting], cut.is_truncated) == ([4, 3], True)
        answered = [
            ProgramRefusal(
                namespace="shop", service_account="web", program=say(number).program, refused_by="x", refused=NOW
            )
            for number in (4, 3, 2)
        ]
        await core.store.refusals.add(answered)
        whole = await programs.list_queue()
        assert ([int(each.seen.program.digest, 16) for each in whole.waiting], whole.is_truncated) == ([1, 0], False)
        assert all(each.seen.code is not None for each in whole.waiting)


async def test_an_image_that_the_cluster_names_late_is_found_without_another_word(tmp_path: Path) -> None:
    """For ten minutes, and for so many programs of a sidecar; those of others keep their room."""
    now, images = [NOW], {"a": ""}
    async with opened(tmp_path) as core:
        store = core.store
        programs = ProgramsSeen(store, clock=lambda: now[0])

        def take(number: int, instance: str) -> None:
            programs.take(say(number), instance=instance, workload=WEB, find_image=lambda: images.get(instance, ""))

        async def list_images() -> dict[str, list[str]]:
            listed = await store.sightings.list_newest("", answered=set())
            return {each.program.digest: [image.image for image in each.images] for each in listed.sightings}

        take(1, "a")
        for number in range(100, 100 + 2 * programs_seen.MAX_IMAGELESS_PER_SIDECAR):
            take(number, "flood")
        await programs.flush()
        assert not any((await list_images()).values())
        images["a"] = "r/web@sha256:1"
        await programs.flush()
        assert (await list_images())[say(1).program.digest] == ["r/web@sha256:1"]
        assert len(programs._imageless) == programs_seen.MAX_IMAGELESS_PER_SIDECAR
        now[0] += programs_seen.IMAGE_WAIT_S + 1
        await programs.flush()
        assert not programs._imageless
