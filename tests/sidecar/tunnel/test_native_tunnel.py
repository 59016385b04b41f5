"""When the compiled loop moves a tunnel's bytes, and what it leaves; ``test_tunnel.py`` runs with it, too."""

from __future__ import annotations

import asyncio
import socket

import pytest

from sidecar.native.engine import load
from sidecar.pump.from_tunnel import FromTunnel
from sidecar.pump.guard import UNGUARDED
from sidecar.pump.to_tunnel import ToTunnel
from sidecar.tunnel.native_tunnel import NativeTunnel
from tests.sidecar.little_ca import until
from tests.sidecar.pump.test_tunnel_pump import opened_turn

if load() is None:
    pytest.skip("the native engine isn't built: it takes a C compiler and Python's headers", allow_module_level=True)

from sidecar.native._loop import BUDGET_BYTES

_A_READ = 4 * 16 * 1024


async def push(source: socket.socket, sink: socket.socket, size: int) -> bytes:
    """Send so many bytes, and return what came out."""
    loop = asyncio.get_running_loop()
    sending = asyncio.ensure_future(loop.sock_sendall(source, bytes(range(256)) * (size // 256)))
    got = bytearray()
    while len(got) < size:
        got += await loop.sock_recv(sink, 1 << 20)
    await sending
    return bytes(got)


@pytest.mark.usefixtures("workers")
async def test_the_loop_moves_bulk_both_ways_and_no_byte_of_it_goes_through_python(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with opened_turn(b"question") as turn:
        assert isinstance(turn.near, NativeTunnel)
        assert await asyncio.get_running_loop().sock_recv(turn.server, 100) == b"question"
        turn.server.send(b"answer")
        assert await asyncio.get_running_loop().sock_recv(turn.app, 100) == b"answer"
        by_python: list[str] = []
        monkeypatch.setattr(FromTunnel, "take", lambda *_: by_python.append("take"))
        monkeypatch.setattr(ToTunnel, "_end_with", lambda *_: by_python.append("end"))
        expected = bytes(range(256)) * 8192
        assert await push(turn.app, turn.server, len(expected)) == expected
        assert await push(turn.server, turn.app, len(expected)) == expected
        assert by_python == []
        assert turn.initiator.sent == turn.responder.sent == 8 + len(expected)
        assert turn.initiator.received == turn.responder.received == 6 + len(expected)
        for end in (turn.near, turn.far):  # What a mover has used of the keys is counted when it gives the turn back.
            assert isinstance(end, NativeTunnel)
            end.take_back()
        assert (turn.near.sent, turn.near.received) == (turn.far.received, turn.far.sent)


async def test_one_look_at_the_program_lets_one_budget_pass_at_most() -> None:
    class Watchman:
        """A guard whose every look is asked for, and that notes what has passed by then."""

        fresh_until = 0.0

        def __init__(self) -> None:
            self.passed = [0]

        def look_again(self) -> bool:
            self.passed.append(turn.initiator.sent)
            return True

        def find_proof(self) -> None:
            raise LookupError("only this guard looks")

    async with opened_turn() as turn:
        watchman = Watchman()
        turn.initiator.guard_by(watchman)
        await push(turn.app, turn.server, 4 << 20)
        turn.initiator.guard_by(UNGUARDED)
        steps = [after - before for before, after in zip(watchman.passed, watchman.passed[1:], strict=False)]
        assert len(steps) > 4
        assert max(steps) <= BUDGET_BYTES + _A_READ


async def test_what_waits_goes_before_what_the_loop_would_write() -> None:
    async with opened_turn(b"early") as turn:
        far = turn.far
        assert isinstance(far, NativeTunnel)
        seen = [far.can_carry]  # ACCEPT waits for the answer, to share its record.
        turn.server.send(b"answer")
        await until(lambda: turn.initiator.received == 6)
        seen.append(far.can_carry)
        far.close()
        assert [*seen, far.can_carry] == [False, True, False]
