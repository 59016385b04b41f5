"""The CA is told of each program twice, again after a while, and again where it couldn't be told or little was seen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, cast

import msgspec
import pytest

from shared.model.errors import UnavailableError
from shared.model.identity.loaded_code import LoadedCode
from shared.model.identity.program import Program
from shared.model.wire.messages import FromSidecar, ProgramSeen
from sidecar.attest.facts import Attestation, ProcessFacts
from sidecar.sightings import reporting
from sidecar.sightings.reporting import Sightings
from sidecar.sightings.surroundings import Surroundings
from tests.sidecar.little_ca import until

AROUND = Surroundings(package="web 1 (apk)", container="c" * 64, parents=("/init",))


def attest(digits: str = "aa") -> Attestation:
    facts = ProcessFacts(pid=1, start_time=1, uid=0, path="/srv/web (deleted)")
    return Attestation(
        program=Program(digest=digits * 32), process=facts, inode=1, cookie=1, execution=cast("Any", None)
    )


class Told:
    """What is sent; fails as long as there is no stream."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[FromSidecar] = asyncio.Queue()
        self.is_connected = True
        self.refused = asyncio.Event()
        self.not_sent: list[Program] = []

    def send(self, message: FromSidecar) -> None:
        if not self.is_connected:
            assert isinstance(message, ProgramSeen)
            self.not_sent.append(message.program)
            self.refused.set()
            raise UnavailableError("no stream")
        self.messages.put_nowait(message)

    async def next(self) -> FromSidecar:
        async with asyncio.timeout(60):
            return await self.messages.get()


@asynccontextmanager
async def running(
    told: Told,
    *,
    look: Callable[..., Surroundings] = lambda _process: AROUND,
    tell_code: Callable[[Attestation], LoadedCode | None] = lambda _: LoadedCode(anonymous=True),
) -> AsyncIterator[Sightings]:
    sightings = Sightings(send=told.send, tell_code=tell_code, look=look)
    task = asyncio.create_task(sightings.run())
    try:
        yield sightings
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_each_program_is_told_once_and_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    async with running(told) as sightings:
        for _ in range(3):
            sightings.note(attest())
        assert await told.next() == ProgramSeen(
            program=attest().program, path="/srv/web (deleted)", package=AROUND.package, container=AROUND.container,
            parents=AROUND.parents, code=LoadedCode(anonymous=True),
        )  # fmt: skip
        sightings.note(attest())
        sightings.note(attest("bb"))
        second = await told.next()
        assert isinstance(second, ProgramSeen)
        assert second.program == attest("bb").program, "the first one was told already"
        monkeypatch.setattr(reporting, "REPEAT_S", -1.0)
        sightings.note(attest("cc"))
        await told.next()
        sightings.note(attest("cc"))
        assert isinstance(await told.next(), ProgramSeen)


async def test_what_who_accepts_has_loaded_is_told_at_once_each_set_once_and_again_where_it_couldnt_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told, code, more = Told(), LoadedCode(anonymous=True), LoadedCode(omitted=1)
    sightings = Sightings(send=told.send, tell_code=lambda each: code if each.process.pid == 1 else more)
    worker = msgspec.structs.replace(attest(), process=replace(attest().process, pid=2))
    for _ in range(3):
        sightings.note_accepted(attest(), code)
        sightings.note_accepted(worker, more)
    first, second = told.messages.get_nowait(), told.messages.get_nowait()
    assert first == ProgramSeen(program=attest().program, path="/srv/web (deleted)", code=code, has_accepted=True)
    assert second == msgspec.structs.replace(first, code=more)
    sightings.note_accepted(attest(), LoadedCode(anonymous=True))
    assert told.messages.empty(), "the same objects, whichever process has them"
    told.is_connected = False
    sightings.note_accepted(attest("bb"), code)
    told.is_connected = True
    sightings.note_accepted(attest("bb"), code)
    assert told.messages.empty(), "not at each connection"
    monkeypatch.setattr(reporting, "RETRY_S", -1.0)
    told.is_connected = False
    other = LoadedCode(omitted=2)
    sightings.note_accepted(attest("cc"), other)
    told.is_connected = True
    sightings.note_accepted(attest("cc"), other)
    assert isinstance(told.messages.get_nowait(), ProgramSeen)


async def test_who_accepted_and_ended_before_it_is_told_doesnt_count_as_told() -> None:
    told, codes = Told(), [None, LoadedCode(anonymous=True)]
    sightings, code = Sightings(send=told.send, tell_code=lambda _: codes.pop(0)), LoadedCode(anonymous=True)
    sightings.note_accepted(attest(), code)
    assert told.messages.empty()
    sightings.note_accepted(attest(), code)
    message = told.messages.get_nowait()
    assert isinstance(message, ProgramSeen) and message.code == code


async def test_of_who_accepts_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "MAX_ACCEPTED", 2)
    told = Told()
    sightings = Sightings(send=told.send, tell_code=lambda _: LoadedCode())
    for number in range(4):
        process = replace(attest().process, pid=number)
        sightings.note_accepted(msgspec.structs.replace(attest(), process=process), LoadedCode(omitted=number))
    assert (len(sightings._accepted), len(sightings._accepted_of)) == (2, 2)


async def test_a_program_is_told_a_second_time_when_more_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "SECOND_S", 0.1)
    told = Told()
    looks = iter([AROUND])  # Then its process has ended.
    code = iter([None, LoadedCode(anonymous=True)])
    async with running(told, look=lambda _: next(looks, Surroundings()), tell_code=lambda _: next(code)) as sightings:
        sightings.note(attest())
        first, second = await told.next(), await told.next()
        assert isinstance(first, ProgramSeen)
        assert (first.code, first.container) == (None, AROUND.container)
        assert second == msgspec.structs.replace(first, code=LoadedCode(anonymous=True)), "nothing seen is lost again"
        assert not sightings._second, "twice is enough"


async def test_a_second_time_that_fails_is_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "SECOND_S", 0.1)
    monkeypatch.setattr(reporting, "RETRY_S", -1.0)
    told = Told()
    async with running(told) as sightings:
        sightings.note(attest())
        await told.next()
        told.is_connected = False
        async with asyncio.timeout(60):
            await told.refused.wait()
        told.is_connected = True
        sightings.note(attest())
        assert await told.next() == await told.next()


async def test_a_short_program_is_looked_at_again_soon_but_ever_later() -> None:
    told = Told()
    async with running(told, look=lambda _: Surroundings()) as sightings:
        waits = []
        for _ in range(10):
            sightings.note(attest())
            await told.next()
            known = sightings._known[attest().program]
            waits.append(known.patience_s)  # Of the look after the next one.
            known.due = 0.0
        assert waits[:3] == [2 * reporting.RETRY_S, 4 * reporting.RETRY_S, 8 * reporting.RETRY_S]
        assert waits[-1] == reporting.REPEAT_S
        assert len(sightings._second) == 1


async def test_what_couldnt_be_told_is_told_with_a_later_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    monkeypatch.setattr(reporting, "RETRY_S", -1.0)
    async with running(told) as sightings:
        told.is_connected = False
        sightings.note(attest())
        async with asyncio.timeout(60):
            await told.refused.wait()
        told.is_connected = True
        sightings.note(attest())
        assert isinstance(await told.next(), ProgramSeen)


async def test_without_the_ca_not_each_connection_causes_a_look() -> None:
    told = Told()
    told.is_connected = False
    async with running(told) as sightings:
        for digits in ("aa", "aa", "bb"):
            sightings.note(attest(digits))
            await until(partial(told.not_sent.__contains__, attest(digits).program))
    assert told.not_sent == [attest("aa").program, attest("bb").program]


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "MAX_WAITING", 2)
    sightings = Sightings(send=lambda _: None)
    for digits in ("aa", "bb", "cc"):
        sightings.note(attest(digits))
    assert [program.digest[:2] for program in sightings._waiting] == ["aa", "bb"]
