"""Steps of handshakes run in threads of their own, one for each role, and none outlives its connection."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence

import pytest

from sidecar.tls.handshake_workers import _MOST_HERE, compute
from sidecar.tls.role import Role


async def test_a_step_runs_beside_the_loop_in_its_roles_thread() -> None:
    loop = asyncio.get_running_loop()
    names = {role: await compute(loop, role, lambda: threading.current_thread().name) for role in Role}
    assert len({*names.values(), threading.current_thread().name}) == 3


async def test_a_short_step_runs_on_the_loop_but_no_more_than_its_share_of_a_turn() -> None:
    loop, here = asyncio.get_running_loop(), threading.current_thread().name

    async def run() -> bool:
        name = await compute(loop, Role.INITIATOR, lambda: threading.current_thread().name, is_short=True)
        return name == here

    # None of the first ones waits, so that all of them are in one turn; the one after them waits for its thread.
    for _ in range(2):
        assert [await run() for _ in range(_MOST_HERE + 1)] == [True] * _MOST_HERE + [False]


async def test_a_steps_error_is_raised() -> None:
    def fail() -> None:
        raise ValueError("ordered by the test")

    for is_short in (False, True):
        with pytest.raises(ValueError, match="ordered"):
            await compute(asyncio.get_running_loop(), Role.RESPONDER, fail, is_short=is_short)


async def test_a_cancelled_step_that_has_begun_is_waited_for_and_one_that_hasnt_never_runs() -> None:
    loop = asyncio.get_running_loop()
    begun, may_end, done = threading.Event(), threading.Event(), list[str]()

    def first() -> None:
        begun.set()
        may_end.wait(30)
        done.append("first")

    running = asyncio.create_task(compute(loop, Role.RESPONDER, first))
    waiting = asyncio.create_task(compute(loop, Role.RESPONDER, lambda: done.append("second")))
    await asyncio.to_thread(begun.wait, 30)
    waiting.cancel()
    running.cancel()
    await asyncio.sleep(0)
    running.cancel()  # Once more: the step still uses the connection's descriptor.
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not running.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert done == ["first"]


async def run_in_order(steps: Sequence[tuple[str, bool]]) -> list[str]:
    """Hand steps over while the worker is busy; return them in the order in which they ran."""
    loop = asyncio.get_running_loop()
    begun, may_end, order = threading.Event(), threading.Event(), list[str]()

    def hold() -> None:
        begun.set()
        may_end.wait(30)

    async def take(name: str, *, is_first: bool) -> None:
        await compute(loop, Role.INITIATOR, lambda: order.append(name), is_first=is_first)

    held = asyncio.create_task(compute(loop, Role.INITIATOR, hold))
    await asyncio.to_thread(begun.wait, 30)
    waiting = [asyncio.create_task(take(name, is_first=is_first)) for name, is_first in steps]
    await asyncio.sleep(0)
    may_end.set()
    await asyncio.gather(held, *waiting)
    return order


async def test_steps_of_handshakes_that_have_begun_come_before_first_ones() -> None:
    steps = [("first", True), ("second", True), ("begun", False), ("third", True), ("begun later", False)]
    assert await run_in_order(steps) == ["begun", "begun later", "first", "second", "third"]


async def test_peers_that_cut_their_handshakes_into_many_steps_keep_no_other_one_from_beginning() -> None:
    order = await run_in_order([("first", True), ("second", True), *(("cut", False) for _ in range(1_000))])
    assert order.index("first") < 10
    assert order.index("second") < 20
    assert order.count("cut") == 1_000


async def test_a_failed_step_leaves_no_cycle_for_the_collector() -> None:
    class Fault(Exception):
        pass

    def fail() -> None:
        raise Fault

    async def catch() -> weakref.ref[Fault]:
        try:
            await compute(asyncio.get_running_loop(), Role.INITIATOR, fail)
        except Fault as error:
            return weakref.ref(error)
        raise AssertionError("it was to fail")

    was_enabled = gc.isenabled()
    gc.disable()
    try:
        fault = await catch()
        # The worker lets go of its last step a moment after the loop was told.
        deadline = asyncio.get_running_loop().time() + 30
        while fault() is not None and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.001)
        assert fault() is None
    finally:
        if was_enabled:
            gc.enable()


def test_a_process_ends_though_its_workers_wait() -> None:
    program = (
        "import asyncio\n"
        "from sidecar.tls.handshake_workers import compute\n"
        "from sidecar.tls.role import Role\n"
        "async def main():\n"
        "    return [await compute(asyncio.get_running_loop(), role, lambda: 1) for role in Role]\n"
        "assert asyncio.run(main()) == [1, 1]\n"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=180).returncode == 0
