"""How long a ``connect()`` waits, and what is kept of who dials. End to end: ``tests/e2e/test_short_senders.py``."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from shared.model.errors import MachineError
from shared.model.policy.reasons import Reason
from shared.runtime.tasks import Tasks
from sidecar.attest.facts import AttestationError
from sidecar.capture.queue_messages import QueuedPacket
from sidecar.connection.short_senders import REMEMBERED_S, ShortSenders
from sidecar.figures.counts import StoryCounts
from sidecar.runtime import held_connects as module
from sidecar.runtime.held_connects import HeldConnects
from tests.sidecar.little_ca import until

ENDS = (("198.18.0.1", 54_714), ("198.18.0.2", 5_432))


class FakeQueue:
    """A queue whose packets the test puts in."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        self._waiting: list[QueuedPacket] = []
        self.fault: OSError | None = None
        self.passed: list[int] = []
        self.is_closed = False

    def put(self, *packets: QueuedPacket) -> None:
        self._waiting += packets
        os.write(self._writer, b"x")

    def fileno(self) -> int:
        return self._reader

    def take(self) -> list[QueuedPacket] | None:
        if self.fault is not None:
            raise self.fault
        if not self._waiting:
            os.read(self._reader, 1)
            return None
        return [self._waiting.pop(0)]

    def let_pass(self, packet: QueuedPacket) -> None:
        assert not self.is_closed
        self.passed.append(packet.number)

    def close(self) -> None:
        self.is_closed = True
        os.close(self._reader)
        os.close(self._writer)


@dataclass(kw_only=True)
class FakeAttestor:
    """Says what the test wants; ``found`` is whatever dials."""

    now: object = None
    later: asyncio.Future[Any] | None = None
    found: object = "socket"
    kept: list[object] = field(default_factory=list)

    def find_dialling(self, *_: object) -> object:
        return self.found

    def attest_dialling_now(self, _: object) -> object:
        if isinstance(self.now, AttestationError):
            raise self.now
        return self.now

    async def attest_dialling(self, _: object) -> object:
        assert self.later is not None
        return await asyncio.shield(self.later)

    def keep_dialling(self, attestation: object) -> None:
        self.kept.append(attestation)


class Held:
    """The part with its fakes."""

    def __init__(self, queue: FakeQueue, *, always: bool = True) -> None:
        self.now = 100.0
        self.short_senders = ShortSenders(lambda: self.now)
        self.queue, self.attestor, self.failures = queue, FakeAttestor(), list[str]()
        self.queue_again = FakeQueue()
        self.said: list[str] = []
        self.counts = StoryCounts()
        self.tasks = Tasks(lambda name, _: self.failures.append(name))
        sidecar: Any = SimpleNamespace(attestor=self.attestor, counts=self.counts, short_senders=self.short_senders)
        events: Any = SimpleNamespace(emit=lambda name, **_: self.said.append(name))
        self.connects = HeldConnects(sidecar, 7, always=always, tasks=self.tasks, events=events)

    async def put(self, *numbers: int, ends: tuple[Any, Any] | None = ENDS) -> None:
        self.queue.put(*(QueuedPacket(number=number, ends=ends) for number in numbers))
        await until(lambda: not self.queue._waiting)


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Whose loaded code was looked at; none is checked unless ``find_checked`` is replaced."""
    seen: list[object] = []

    async def check_code(_: object, attestation: object) -> str:
        seen.append(attestation)
        return ""

    monkeypatch.setattr(module, "check_code", check_code)
    monkeypatch.setattr(module, "find_checked", lambda *_: None)
    return seen


@pytest.fixture
async def held(monkeypatch: pytest.MonkeyPatch, looked_at: list[object]) -> Any:
    del looked_at
    queue = FakeQueue()
    monkeypatch.setattr(module, "ConnectQueue", lambda number: queue if number == 7 else None)
    made = Held(queue)
    made.connects.start()
    yield made
    made.connects.close()
    assert queue.is_closed
    if not made.queue_again.is_closed:
        made.queue_again.close()
    await made.tasks.close(timeout_s=60)


@pytest.mark.parametrize("ends", [None, ENDS])
async def test_what_nobody_dials_passes_at_once(held: Held, ends: tuple[Any, Any] | None) -> None:
    held.attestor.found = None
    await held.put(1, 2, ends=ends)
    assert held.queue.passed == [1, 2]
    assert held.attestor.kept == []


async def test_a_known_program_passes_at_once_and_is_kept(held: Held) -> None:
    held.attestor.now = "known"
    await held.put(1)
    assert (held.queue.passed, held.attestor.kept) == ([1], ["known"])


async def test_a_traced_one_passes_and_is_told_on_accept(held: Held) -> None:
    held.attestor.now = AttestationError("traced", reason=Reason.PROCESS_TRACED)
    await held.put(1)
    assert (held.queue.passed, held.attestor.kept) == ([1], [])


async def test_an_unknown_program_waits_for_its_look_and_others_dont_wait_for_it(
    held: Held, looked_at: list[object]
) -> None:
    held.attestor.later = asyncio.get_running_loop().create_future()
    await held.put(1)
    held.attestor.now = "known"
    await held.put(2)
    assert (held.queue.passed, held.attestor.kept) == ([2], ["known"])
    held.attestor.later.set_result("new")
    await until(lambda: held.queue.passed == [2, 1])
    assert held.attestor.kept == ["known", "new"]
    assert looked_at == ["new"]


async def test_one_that_cannot_be_attested_passes(held: Held) -> None:
    held.attestor.later = asyncio.get_running_loop().create_future()
    held.attestor.later.set_exception(AttestationError("no", reason=Reason.NO_OWNER))
    await held.put(1)
    await until(lambda: held.queue.passed == [1])
    assert held.attestor.kept == []
    assert held.failures == []


async def test_a_look_that_takes_long_holds_nothing_for_a_second(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_HELD_S", 0.001)
    held.attestor.later = asyncio.get_running_loop().create_future()
    await held.put(1)
    await until(lambda: held.queue.passed == [1])
    assert held.attestor.kept == []


async def test_beyond_a_number_nothing_waits(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_HELD", 2)
    held.attestor.later = asyncio.get_running_loop().create_future()
    await held.put(1, 2, 3)
    assert held.queue.passed == [3]


async def test_loaded_code_that_is_checked_is_looked_at_while_the_program_is_there(
    held: Held, monkeypatch: pytest.MonkeyPatch, looked_at: list[object]
) -> None:
    monkeypatch.setattr(module, "find_checked", lambda *_: "an approval")
    monkeypatch.setattr(HeldConnects, "_needs_code", lambda *_: True)
    held.attestor.now = "known"
    await held.put(1)
    await until(lambda: held.queue.passed == [1])
    assert looked_at == held.attestor.kept == ["known"]


async def test_at_the_end_everything_passes(held: Held) -> None:
    held.attestor.later = asyncio.get_running_loop().create_future()
    await held.put(1, 2)
    held.connects.close()
    assert held.queue.passed == [1, 2]
    held.attestor.later.set_result("too late")
    await until(lambda: not len(held.tasks))
    assert held.failures == []


async def test_a_burst_is_looked_at_in_slices(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two slices the loop has its turn; here each slice ends after one packet."""
    monkeypatch.setattr(module, "SLICE_S", 0.0)
    held.attestor.now = "known"
    turns: list[int] = []

    def count() -> None:
        turns.append(len(held.queue.passed))
        if len(held.queue.passed) < 64:
            asyncio.get_running_loop().call_soon(count)

    count()
    await held.put(*range(64))
    await until(lambda: len(held.queue.passed) == 64)
    assert {1, 32, 63} <= set(turns)


async def test_a_queue_that_fails_is_given_back_said_and_opened_again(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is away the kernel lets connections pass, and what waited goes on."""
    opened: list[object] = [MachineError("still away"), held.queue_again]

    def open_queue(_: int) -> FakeQueue:
        made = opened.pop(0)
        if isinstance(made, MachineError):
            raise made
        assert isinstance(made, FakeQueue)
        return made

    monkeypatch.setattr(module, "ConnectQueue", open_queue)
    held.attestor.later = asyncio.get_running_loop().create_future()
    await held.put(1)
    held.queue.fault = PermissionError(1, "Operation not permitted")
    held.queue.put()
    await until(lambda: held.queue.is_closed)
    assert held.queue.passed == [1]
    assert (held.said, held.counts.holds_connects) == (["connect_queue_lost"], False)
    await until(lambda: not opened)
    assert (held.said, held.counts.holds_connects) == (["connect_queue_lost", "connect_queue_reopened"], True)
    held.attestor.now = "known"
    held.queue_again.put(QueuedPacket(number=2, ends=ENDS))
    await until(lambda: held.queue_again.passed == [2])
    held.attestor.later.cancel()


async def test_a_look_from_before_the_queue_was_opened_again_lets_no_other_packet_pass(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel counts a queue's packets from 1."""
    monkeypatch.setattr(module, "ConnectQueue", lambda _: held.queue_again)
    monkeypatch.setattr(module, "_MAX_HELD_S", 600)
    before = held.attestor.later = asyncio.get_running_loop().create_future()
    await held.put(1)
    held.queue.fault = PermissionError(1, "Operation not permitted")
    held.queue.put()
    await until(lambda: held.said == ["connect_queue_lost", "connect_queue_reopened"])
    held.attestor.later = asyncio.get_running_loop().create_future()
    held.queue_again.put(QueuedPacket(number=1, ends=ENDS))
    await until(lambda: len(held.tasks) == 2)
    before.set_result("the one before")
    await until(lambda: len(held.tasks) == 1)
    assert held.queue_again.passed == []
    held.attestor.later.set_result("new")
    await until(lambda: held.queue_again.passed == [1])


async def test_one_that_is_away_at_the_end_isnt_opened_again(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> FakeQueue:
        raise AssertionError

    monkeypatch.setattr(module, "ConnectQueue", fail)
    held.queue.fault = OSError(105, "No buffer space available")
    held.queue.put()
    await until(lambda: held.queue.is_closed)
    held.connects.close()
    assert held.connects._opening is None


@pytest.fixture
async def waking(monkeypatch: pytest.MonkeyPatch, looked_at: list[object]) -> Any:
    """It holds nothing until a program was gone too early."""
    del looked_at
    queue = FakeQueue()
    made = Held(queue, always=False)
    monkeypatch.setattr(module, "ConnectQueue", lambda _: queue)
    made.connects.start()
    yield made
    made.connects.close()
    for each in (queue, made.queue_again):
        if not each.is_closed:
            each.close()
    await made.tasks.close(timeout_s=60)


async def test_the_queue_is_opened_once_a_program_was_gone_and_only_its_port_is_looked_at(waking: Held) -> None:
    assert (waking.said, waking.counts.holds_connects) == ([], False)
    waking.short_senders.note(5_432)
    waking.short_senders.note(5_432)
    assert (waking.said, waking.counts.holds_connects) == (["connects_held"], True)
    waking.attestor.now = "known"
    await waking.put(1, ends=(ENDS[0], ("198.18.0.2", 80)))
    assert (waking.queue.passed, waking.attestor.kept) == ([1], [])
    await waking.put(2)
    assert (waking.queue.passed, waking.attestor.kept) == ([1, 2], ["known"])


async def test_the_queue_is_given_back_when_the_last_port_is_forgotten(waking: Held) -> None:
    waking.short_senders.note(5_432)
    waking.now += REMEMBERED_S - 1
    closed = []
    for _ in range(2):
        waking.connects._rest()
        closed.append(waking.queue.is_closed)
        waking.now += 2
    assert closed == [False, True]
    assert (waking.counts.holds_connects, waking.connects._resting) == (False, None)


async def test_a_queue_that_cannot_be_had_is_said_and_tried_again(
    waking: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = [MachineError("no queue"), MachineError("no queue"), waking.queue_again]

    def open_queue(_: int) -> FakeQueue:
        made = opened.pop(0)
        if isinstance(made, MachineError):
            raise made
        assert isinstance(made, FakeQueue)
        return made

    monkeypatch.setattr(module, "ConnectQueue", open_queue)
    waking.short_senders.note(5_432)
    waking.short_senders.note(5_432)
    assert waking.said == ["connects_not_held"]
    await until(lambda: not opened)
    assert (waking.said, waking.counts.holds_connects) == (["connects_not_held", "connect_queue_reopened"], True)
    waking.connects.close()
    waking.short_senders.note(80)
    assert waking.counts.holds_connects is False, "at the end nothing is opened again"
