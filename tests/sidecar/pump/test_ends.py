"""How pumping ends: whom a reset is blamed on, waiting for it."""

from __future__ import annotations

import asyncio

from shared.model.policy.decision import Ending
from sidecar.pump.ends import Finished, PumpEnd, reset_by


def test_a_reset_is_blamed_on_the_side_that_opened_the_connection_or_on_the_other() -> None:
    assert reset_by(is_source=True) is Ending.RESET_BY_SOURCE
    assert reset_by(is_source=False) is Ending.RESET_BY_DESTINATION


async def test_who_waits_for_an_end_and_is_cancelled_leaves_it_to_come() -> None:
    loop = asyncio.get_running_loop()
    finished = Finished(loop)

    async def wait() -> PumpEnd:
        return await finished.wait()

    cancelled, waiting = (loop.create_task(wait()) for _ in range(2))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.wait([cancelled])
    assert cancelled.cancelled()
    assert not finished.done()
    finished.set_result(PumpEnd(ending=Ending.FINISHED))
    assert (await waiting).ending is Ending.FINISHED
    assert (await finished.wait()).ending is Ending.FINISHED


async def test_who_waits_for_an_end_goes_on_in_the_next_turn_of_the_loop() -> None:
    finished = Finished(asyncio.get_running_loop())
    told: list[PumpEnd] = []

    async def wait() -> None:
        told.append(await finished.wait())

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    finished.set_result(PumpEnd(ending=Ending.FINISHED))
    await asyncio.sleep(0)
    assert [end.ending for end in told] == [Ending.FINISHED]
    await waiting


async def test_a_future_that_an_end_wakes_has_it_at_once_also_afterwards() -> None:
    loop = asyncio.get_running_loop()
    finished, end = Finished(loop), PumpEnd(ending=Ending.FINISHED)
    before, after, cancelled = (loop.create_future() for _ in range(3))
    finished.wake(before)
    finished.wake(cancelled)
    cancelled.cancel()
    finished.set_result(end)
    finished.wake(after)
    assert before.result() is after.result() is end
