"""``ToTunnel`` and ``FromTunnel``: what each direction of a turn does in which state."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from sidecar.pump.from_tunnel import FromTunnel
from sidecar.pump.states import Flow
from sidecar.pump.to_tunnel import ToTunnel
from sidecar.tunnel.frames import MAX_EARLY_BYTES, FrameType, Opening
from sidecar.tunnel.tunnel import Tunnel
from tests.sidecar.little_ca import until
from tests.sidecar.pair import Mint
from tests.sidecar.pump.test_plain_pump import tcp_pair
from tests.sidecar.tls.test_handshake import make_tunnels
from tests.sidecar.tunnel.test_tunnel import Listener, until_closed

pytestmark = pytest.mark.usefixtures("engine")

OPENING = Opening(connection="00" * 8, destination=("198.18.0.2", 5432), source=("198.18.0.1", 1))


@asynccontextmanager
async def tunnels() -> AsyncIterator[tuple[Tunnel, Tunnel, Listener, Listener]]:
    """A tunnel's ends with users that remember: the initiator's, the responder's."""
    near, far = await make_tunnels(Mint())
    initiator, responder = Listener(), Listener()
    near.attach(initiator)
    far.attach(responder)
    yield near, far, initiator, responder
    near.close()
    far.close()
    await until_closed(near, far)


async def test_until_the_answer_comes_no_more_is_read_than_a_retry_may_hold() -> None:
    app, source = tcp_pair()
    with app, source:
        async with tunnels() as (near, far, initiator, responder):
            outgoing, watch = ToTunnel(near), near.poller.watch(source)
            sending = asyncio.ensure_future(asyncio.get_running_loop().sock_sendall(app, bytes(3 * MAX_EARLY_BYTES)))
            await asyncio.sleep(0.01)
            outgoing.open_with_first(near.begin_opening(OPENING), source)
            await until(lambda: outgoing.flow is Flow.BLOCKED or outgoing.read(source, watch) is Flow.BLOCKED)
            assert outgoing.sent == len(outgoing.early) == MAX_EARLY_BYTES
            assert not outgoing.unblock()
            await until(lambda: responder.frames)
            far.send(FrameType.ACCEPT)
            await until(lambda: initiator.frames)
            outgoing.forget_early()
            assert outgoing.unblock()
            assert not outgoing.early
            await until(lambda: outgoing.read(source, watch) is Flow.OPEN and outgoing.sent == 3 * MAX_EARLY_BYTES)
            await sending
            watch.close()


async def test_a_retry_sends_what_the_try_before_has_read_and_its_end() -> None:
    async with tunnels() as (near, _, _, responder):
        outgoing = ToTunnel(near)
        early = bytes(range(256)) * 160
        outgoing.open_with_early(near.begin_opening(OPENING), early, has_ended=True)
        assert outgoing.flow is Flow.ENDED
        assert outgoing.has_ended
        assert outgoing.early == early
        await until(lambda: responder.frames == [FrameType.OPEN, FrameType.END])
        assert responder.data == early


async def test_after_a_refusal_end_is_sent_though_the_application_may_go_on() -> None:
    app, source = tcp_pair()
    with app, source:
        async with tunnels() as (near, _, _, responder):
            outgoing = ToTunnel(near)
            outgoing.open_with_first(near.begin_opening(OPENING), source)
            outgoing.drop()
            assert not outgoing.has_ended
            await until(lambda: responder.frames == [FrameType.OPEN, FrameType.END])
            assert not outgoing.unblock()
            with pytest.raises(RuntimeError):
                outgoing.start()


async def test_what_comes_before_the_application_is_there_is_kept_and_so_is_the_end() -> None:
    app, source = tcp_pair()
    with app, source:
        async with tunnels() as (near, _, _, _):
            incoming = FromTunnel(near)
            assert incoming.take([memoryview(b"ques"), memoryview(b"tion")], None) is Flow.NEW
            assert incoming.end(None) is Flow.ENDING
            incoming.start(source)
            assert incoming.write_rest(source)
            assert incoming.flow is Flow.ENDED
            assert incoming.received == 8
            assert app.recv(100) == b"question"
            assert app.recv(100) == b""


async def test_an_application_that_takes_no_more_blocks_the_flow_and_gets_the_end_behind_the_rest() -> None:
    loop = asyncio.get_running_loop()
    app, source = tcp_pair()
    with app, source:
        async with tunnels() as (near, _, _, _):
            incoming, chunk = FromTunnel(near), bytes(range(256)) * 200
            incoming.start(source)
            while incoming.take([memoryview(chunk)], source) is Flow.OPEN:
                pass
            assert incoming.rest
            assert incoming.take([memoryview(chunk), memoryview(b"last")], source) is Flow.BLOCKED
            assert incoming.end(source) is Flow.ENDING
            assert not incoming.write_rest(source)
            got = bytearray()
            while len(got) < incoming.received:
                got += await loop.sock_recv(app, 65536)
                if incoming.rest:
                    incoming.write_rest(source)
            assert bytes(got) == chunk * (len(got) // len(chunk)) + b"last"
            assert await loop.sock_recv(app, 1) == b""
            assert incoming.flow is Flow.ENDED


async def test_what_comes_after_a_refusal_is_dropped() -> None:
    async with tunnels() as (near, _, _, _):
        incoming = FromTunnel(near)
        incoming.take([memoryview(b"early")], None)
        incoming.drop()
        assert incoming.take([memoryview(b"more")], None) is Flow.DROPPED
        assert not incoming.rest
        assert incoming.end(None) is Flow.DROPPED
