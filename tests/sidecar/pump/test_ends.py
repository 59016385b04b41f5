"""How pumping ends: whom a reset is blamed on, waiting for it."""

from __future__ import annotations

import asyncio

from shared.model.policy.decision import Ending
from sidecar.pump.ends import PumpEnd, reset_by, wait_for_end


def test_a_reset_is_blamed_on_the_side_that_opened_the_connection_or_on_the_other() -> None:
    assert reset_by(is_source=True) is Ending.RESET_BY_SOURCE
    assert reset_by(is_source=False) is Ending.RESET_BY_DESTINATION


async def test_who_waits_for_an_end_and_is_cancelled_leaves_it_to_come() -> None:
    loop = asyncio.get_running_loop()
    finished: asyncio.Future[PumpEnd] = loop.create_future()

    async def wait() -> PumpEnd:
        return await wait_for_end(finished)

    cancelled, waiting = (loop.create_task(wait()) for _ in range(2))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.wait([cancelled])
    assert cancelled.cancelled()
    assert not finished.done()
    finished.set_result(PumpEnd(ending=Ending.FINISHED))
    assert (await waiting).ending is Ending.FINISHED
    assert (await wait_for_end(finished)).ending is Ending.FINISHED
