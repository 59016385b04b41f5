"""What is watched while the sidecar runs: what isn't proven any more ends its connection, or is told."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction, Mode
from shared.runtime.sinks import LineSink
from sidecar.attest.facts import AttestationError
from sidecar.connection.connection import Connection
from sidecar.events import Events
from sidecar.runtime.live_checks import watch_holders, watch_programs
from tests.sidecar.little_ca import until

OUT, IN = Direction.EGRESS, Direction.INGRESS


class Scene:
    """One connection, and an attestor that finds what it is told, once."""

    def __init__(self, reason: Reason, mode: Mode, direction: Direction) -> None:
        self.attestor = self.connections = self.parties = self._carrier = self
        self.orphaned = 0
        self.policies = SimpleNamespace(mode=mode)
        self.attestation, self.id, self.direction = SimpleNamespace(execution=1), "c", direction
        self.left = [AttestationError("found", reason=reason)]
        self.waiting = [self]
        self.revoked: list[Reason] = []
        self.unproven: frozenset[str] = frozenset()
        self.refused_in_explicit: list[Reason] = []
        self.is_without_socket = False
        self.checked = self.asked = 0
        self.tells_after = 9
        self.on_search: Callable[[], None] | None = None

    def next_unchecked(self, now: float) -> Scene | None:
        return self.waiting.pop() if self.waiting else None

    def note_checked(self, connection: Scene, now: float) -> None:
        self.checked += 1

    def check_holders(self, attestation: object) -> asyncio.Future[None]:
        self.asked += 1
        self.answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not self.left:
            pass  # The answer is the test's.
        elif self.asked <= self.tells_after:
            self.answer.set_exception(self.left[0])
        else:
            self.answer.set_result(None)
        return self.answer

    def list_attestations(self) -> list[object]:
        return [self.attestation]

    def list_of(self, execution: int) -> list[Scene]:
        return [self]

    def look_again(self, attestations: list[object]) -> Iterator[tuple[object, AttestationError]]:
        while self.left:
            yield self.attestation, self.left.pop()
        self.checked += 1

    lose_proof = Connection.lose_proof

    @property
    def is_revoked(self) -> bool:
        return bool(self.revoked)

    def be_orphaned(self) -> None:
        self.orphaned += 1

    def has_let_go(self, attestation: object) -> bool:
        return self.is_without_socket

    def revoke(self, reason: Reason, detail: str) -> None:
        self.revoked.append(reason)

    def note_unproven(self, reason: Reason, detail: str) -> None:
        self.refused_in_explicit.append(reason)

    def note_cleared(self) -> None:
        self.refused_in_explicit.clear()


@asynccontextmanager
async def told() -> AsyncIterator[Events]:
    null = os.open("/dev/null", os.O_WRONLY)
    sink = LineSink(null)
    yield Events(sink)
    sink.close(timeout_s=30)
    os.close(null)


async def watch(watching: Coroutine[Any, Any, None], scene: Scene) -> None:
    task = asyncio.create_task(watching)
    await until(lambda: scene.checked)
    assert not task.done()
    task.cancel()
    await asyncio.wait({task})


@pytest.mark.parametrize(
    ("found", "mode", "direction", "is_revoked"),
    [
        (Reason.SOCKET_SHARED, Mode.PERMISSIVE, OUT, True),
        (Reason.SOCKET_SHARED, Mode.EXPLICIT, IN, True),
        (Reason.SOCKET_SHARED, Mode.PERMISSIVE, IN, False),
        (Reason.PROGRAM_CHANGED, Mode.EXPLICIT, OUT, True),
        (Reason.HOLDERS_UNKNOWN, Mode.EXPLICIT, OUT, True),
        (Reason.HOLDERS_UNKNOWN, Mode.PERMISSIVE, OUT, False),
        (Reason.OVERLOADED, Mode.EXPLICIT, IN, True),
    ],
)
async def test_explicit_mode_closes_whatever_isnt_proven(
    found: Reason, mode: Mode, direction: Direction, is_revoked: bool
) -> None:
    async with told() as events:
        for watching in (watch_holders, watch_programs):
            scene = Scene(found, mode, direction)
            await watch(watching(cast("Any", scene), events), scene)
            assert scene.revoked == ([found] if is_revoked else [])
            assert scene.refused_in_explicit == ([] if is_revoked else [found])


async def test_with_each_search_it_is_looked_who_has_accepted_by_now() -> None:
    searched: list[int] = []
    async with told() as events:
        scene = Scene(Reason.SOCKET_SHARED, Mode.PERMISSIVE, IN)
        scene.on_search = lambda: searched.append(scene.asked)
        await watch(watch_holders(cast("Any", scene), events), scene)
    assert searched == [0]


async def test_a_fault_in_looking_who_has_accepted_costs_that_connection_alone() -> None:
    def fail() -> None:
        raise RuntimeError("ordered by the test")

    async with told() as events:
        faulty, other, both = (Scene(Reason.SOCKET_SHARED, Mode.EXPLICIT, OUT) for _ in range(3))
        faulty.on_search = fail
        both.waiting = [other, faulty]
        await watch(watch_holders(cast("Any", both), events), both)
    assert faulty.revoked[0] is Reason.INTERNAL_ERROR
    assert other.revoked == [Reason.SOCKET_SHARED]


async def test_holders_that_one_pass_couldnt_tell_are_looked_for_once_more() -> None:
    async with told() as events:
        scene = Scene(Reason.HOLDERS_UNKNOWN, Mode.EXPLICIT, OUT)
        scene.tells_after = 1
        await watch(watch_holders(cast("Any", scene), events), scene)
        assert (scene.asked, scene.revoked) == (2, [])


async def test_a_search_that_is_complete_later_takes_the_mark_of_incomplete_ones_away() -> None:
    async with told() as events:
        scene = Scene(Reason.HOLDERS_UNKNOWN, Mode.PERMISSIVE, OUT)
        await watch(watch_holders(cast("Any", scene), events), scene)
        assert scene.refused_in_explicit == [Reason.HOLDERS_UNKNOWN]
        scene.tells_after, scene.waiting, scene.checked = scene.asked, [scene], 0
        await watch(watch_holders(cast("Any", scene), events), scene)
        assert (scene.refused_in_explicit, scene.revoked) == ([], [])


async def test_a_sockets_answer_is_followed_while_others_are_awaited() -> None:
    async with told() as events:
        slow, quick = (Scene(Reason.SOCKET_SHARED, Mode.EXPLICIT, OUT) for _ in range(2))
        slow.left = []
        both = Scene(Reason.SOCKET_SHARED, Mode.EXPLICIT, OUT)
        both.waiting = [quick, slow]
        slow.attestation.scene, quick.attestation.scene = slow, quick
        both.check_holders = lambda attestation: attestation.scene.check_holders(attestation)  # type: ignore[attr-defined,method-assign]
        watching = asyncio.create_task(watch_holders(cast("Any", both), events))
        await until(lambda: quick.revoked)
        assert (slow.asked, slow.revoked, both.checked) == (1, [], 0)
        slow.answer.cancel()  # As the attestor's end does.
        await until(lambda: both.checked)
        assert (both.checked, slow.revoked, watching.done()) == (2, [], False)
        watching.cancel()
        await asyncio.wait({watching})


async def test_answers_that_nobody_follows_any_more_are_given_up() -> None:
    async with told() as events:
        scene = Scene(Reason.SOCKET_SHARED, Mode.EXPLICIT, OUT)
        scene.left = []
        watching = asyncio.create_task(watch_holders(cast("Any", scene), events))
        await until(lambda: scene.asked)
        watching.cancel()
        await asyncio.wait({watching})
        assert (scene.answer.cancelled(), scene.checked) == (True, 1)


async def test_where_the_attested_process_has_ended_the_connection_goes_on_as_an_orphan() -> None:
    async with told() as events:
        scene = Scene(Reason.PROCESS_VANISHED, Mode.EXPLICIT, OUT)
        await watch(watch_programs(cast("Any", scene), events), scene)
        assert (scene.orphaned, scene.revoked) == (1, [])


@pytest.mark.parametrize("watching", [watch_holders, watch_programs])
async def test_what_goes_on_unproven_is_told_once_for_each_reason(watching: Any) -> None:
    told: list[object] = []

    def emit(event: str, **fields: object) -> None:
        told.append(fields["reason"])

    events = cast("Events", SimpleNamespace(emit=emit))
    scene = Scene(Reason.SOCKET_SHARED, Mode.PERMISSIVE, IN)
    for found in (Reason.SOCKET_SHARED, Reason.SOCKET_SHARED, Reason.PROGRAM_CHANGED):
        scene.left, scene.waiting, scene.checked = [AttestationError("found", reason=found)], [scene], 0
        await watch(watching(scene, events), scene)
    assert told == [Reason.SOCKET_SHARED, Reason.PROGRAM_CHANGED]


async def test_a_process_that_executed_a_program_without_the_socket_leaves_an_orphan() -> None:
    """The child of ``vfork`` has its parent's descriptors until it executes; the look may have met it."""
    async with told() as events:
        scene = Scene(Reason.PROGRAM_CHANGED, Mode.EXPLICIT, OUT)
        scene.is_without_socket = True
        await watch(watch_programs(cast("Any", scene), events), scene)
        assert (scene.orphaned, scene.revoked) == (1, [])
