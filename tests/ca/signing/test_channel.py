"""The CA's end of the socket: what goes out together, what waits, and what becomes of it when the other end is gone."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from ca.signing.channel import MAX_WAITING, Channel, ChannelLostError
from ca.signing.orders import MAX_ORDERS, MAX_OUTSTANDING, Answer, FrameReader, Orders, write_frame
from shared.model.errors import UnavailableError
from tests.ca.signing.given import ISSUER, NEXT_ISSUER, make_order


class Other:
    """The signing process's end, without the process."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._reader = FrameReader()
        self._frames: list[bytes] = []

    async def read(self) -> Orders:
        """Return the next frame."""
        while not self._frames:
            data = await asyncio.get_running_loop().sock_recv(self.connection, 65_536)
            assert data, "the channel was closed"
            self._frames += self._reader.take(data)
        return msgspec.msgpack.decode(self._frames.pop(0), type=Orders)

    async def write(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.connection, data)

    async def answer(self, batch: Orders) -> None:
        await self.write(write_frame([Answer(order.number, b"leaf") for order in batch.orders]))


@asynccontextmanager
async def opened_channel(*, answer_deadline_s: float = 300.0) -> AsyncIterator[tuple[Channel, Other]]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    channel = Channel(answer_deadline_s=answer_deadline_s)
    await asyncio.get_running_loop().create_connection(lambda: channel, sock=ours)
    try:
        yield channel, Other(theirs)
    finally:
        channel.end("the test is over")
        theirs.close()


async def test_what_comes_at_once_goes_out_together_behind_its_authority() -> None:
    async with opened_channel() as (channel, other):
        channel.hand_over(ISSUER)
        first = await other.read()
        assert first.authority is not None
        assert (first.authority.authority_id, first.orders) == (ISSUER.authority_id, [])
        given = [channel.give(ISSUER, make_order(channel.next_number())) for _ in range(3)]
        given.append(channel.give(NEXT_ISSUER, make_order(channel.next_number())))
        batches = [await other.read(), await other.read()]
        assert [len(each.orders) for each in batches] == [3, 1]
        assert [each.authority and each.authority.authority_id for each in batches] == [None, NEXT_ISSUER.authority_id]
        channel.hand_over(NEXT_ISSUER)  # It has it already.
        await other.write(write_frame([]))
        for each in batches:
            await other.answer(each)
        assert [(await each).number for each in given] == [1, 2, 3, 4]
        assert channel.ready.done()


async def test_no_more_than_its_share_is_out_and_the_rest_waits_within_a_bound() -> None:
    async with opened_channel() as (channel, other):
        given = [channel.give(ISSUER, make_order(channel.next_number())) for _ in range(MAX_OUTSTANDING + 1)]
        given[1].cancel()
        batches = [await other.read() for _ in range(MAX_OUTSTANDING // MAX_ORDERS)]
        assert sum(len(each.orders) for each in batches) == MAX_OUTSTANDING
        assert 2 not in {order.number for each in batches for order in each.orders}
        for each in batches:
            await other.answer(each)
        await asyncio.gather(*given, return_exceptions=True)
        order = make_order()
        for _ in range(MAX_WAITING):
            channel.give(ISSUER, order)
        with pytest.raises(UnavailableError):
            channel.give(ISSUER, order)


@pytest.mark.parametrize("how", ["closed", "hung", "nonsense", "too long", "unasked"])
async def test_a_process_that_is_lost_gives_everything_back_at_once(how: str) -> None:
    async with opened_channel(answer_deadline_s=0.05 if how == "hung" else 300.0) as (channel, other):
        given = [channel.give(ISSUER, make_order(channel.next_number())) for _ in range(MAX_OUTSTANDING + 5)]
        await other.read()
        if how == "closed":
            other.connection.close()
        elif how != "hung":
            nonsense = {"nonsense": b"\0\0\0\1\xc1", "too long": b"\xff" * 4, "unasked": write_frame([Answer(9999)])}
            await other.write(nonsense[how])
        outcomes = await asyncio.gather(*given, return_exceptions=True)
        assert {type(each) for each in outcomes} == {ChannelLostError}
        assert await channel.lost
        channel._transport = None  # Nothing is written any more, which uvloop's transport would answer by an error.
        channel.hand_over(NEXT_ISSUER)
        with pytest.raises(ChannelLostError):
            await channel.give(ISSUER, make_order())


async def test_a_process_that_answers_isnt_lost_and_silence_without_orders_is_none() -> None:
    async with opened_channel(answer_deadline_s=300.0) as (channel, other):
        answered = channel.give(ISSUER, make_order(channel.next_number()))
        batch = await other.read()
        channel._look()  # As the timer does.
        assert not channel.lost.done()
        await other.answer(batch)
        await answered
        channel._heard = -1e9
        channel._look()
        assert not channel.lost.done()
