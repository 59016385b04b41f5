"""How pumping ends: whom a reset is blamed on, half-closes."""

from __future__ import annotations

import asyncio
import socket

from shared.model.policy.decision import Ending
from sidecar.pump.ends import end_writing, reset_by
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
