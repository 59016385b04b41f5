"""What sidecars say of programs: checked, gathered within a bound, kept when the store fails."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import pytest

from ca.observation import programs_seen
from ca.observation.programs_seen import ProgramsSeen
from shared.model.adoption.program_queue import Sighting
from shared.model.errors import ProtocolError, UnavailableError
from shared.model.identity.loaded_code import LoadedCode, LoadedObject
from shared.model.identity.program import Program
from shared.model.wire.messages import ProgramEvidence, ProgramSeen
from tests.ca.founded import NOW, WEB

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
    """Fails once, then keeps what it is given."""

    def __init__(self) -> None:
        self.sightings = self
        self.kept: list[Sighting] = []
        self.has_failed = False

    async def add(self, sightings: Iterable[Sighting]) -> None:
        if not self.has_failed:
            self.has_failed = True
            raise UnavailableError("the disk is full")
        self.kept += sightings


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
