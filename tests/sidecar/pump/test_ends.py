"""How pumping ends: whom a reset is blamed on, half-closes."""

from __future__ import annotations

import asyncio
import socket

from shared.model.policy.decision import Ending
from sidecar.pump.ends import PumpEnd, end_writing, reset_by, wait_for_end
from tests.sidecar.pump.test_plain_pump import tcp_pair


def test_a_reset_is_blamed_on_the_side_that_opened_the_connection_or_on_the_other() -> None:
    assert reset_by(is_source=True) is Ending.RESET_BY_SOURCE
    assert reset_by(is_source=False) is Ending.RESET_BY_DESTINATION


async def test_a_half_close_is_passed_on_and_one_that_comes_too_late_is_no_failure() -> None:
    near, far = tcp_pair()
    with near, far:
        end_writing(near)
        assert await asyncio.get_running_loop().sock_recv(far, 1) == b""
        assert far.send(b"the other half is open") > 0
    closed = socket.socket()
    closed.close()
    end_writing(closed)


async def test_who_waits_for_an_end_and_is_cancelled_leaves_it_to_come() -> None:
    loop = asyncio.get_running_loop()
    finished: asyncio.Future[PumpEnd] = loop.create_future()
    cancelled, waiting = (loop.create_task(wait_for_end(finished)) for _ in range(2))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.wait([cancelled])
    assert cancelled.cancelled()
    assert not finished.done()
    finished.set_result(PumpEnd(ending=Ending.FINISHED))
    assert (await waiting).ending is Ending.FINISHED
    assert (await wait_for_end(finished)).ending is Ending.FINISHED
