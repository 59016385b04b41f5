"""One signing process's socket, at the CA's end: orders out, answers in. I/O: the transport that it is given.

Belongs here: what waits, what is out, and who gets which answer. Doesn't: starting a process, or what is done without
one (``process.py``).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final, cast

import msgspec

from ca.authority.founding import Authority
from ca.signing.orders import (
    MAX_ORDERS,
    MAX_OUTSTANDING,
    Answer,
    Answers,
    FrameReader,
    Order,
    Orders,
    write_frame,
)
from ca.signing.work import write_handover
from shared.model.errors import ProtocolError, UnavailableError

# As many as the ledger lets wait.
MAX_WAITING: Final = 10_000


class ChannelLostError(Exception):
    """The signing process is gone, and with it what it was to sign; nothing of that has left."""


class Channel(asyncio.Protocol):
    """Orders and answers on one socket.

    What comes in one turn of the event loop goes out together. The process has at most ``MAX_OUTSTANDING`` orders.

    Arguments:
        answer_deadline_s: with orders out, for so long without an answer it counts as hung.

    Attributes:
        ready: done once the process has opened the authority that was handed over first.
        lost: done with why, once the socket is closed or the process hangs or talks nonsense.
    """

    def __init__(self, *, answer_deadline_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._answer_deadline_s = answer_deadline_s
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self.lost: asyncio.Future[str] = self._loop.create_future()
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[tuple[Authority, Order, asyncio.Future[Answer]]] = deque()
        self._out: dict[int, asyncio.Future[Answer]] = {}
        self._reader = FrameReader()
        self._decoder = msgspec.msgpack.Decoder(Answers)
        self._number = 0
        self._authority: Authority | None = None
        self._is_sending = False
        self._heard = 0.0
        self._watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def hand_over(self, authority: Authority) -> None:
        """Have everything from now on signed by this authority, until an order names another one."""
        # A closed transport of uvloop raises where it is written to, and who rotates authorities isn't to see that.
        if authority is not self._authority and not self.lost.done():
            self._write(authority, [])

    def next_number(self) -> int:
        """Return a number for an order."""
        self._number += 1
        return self._number

    def give(self, authority: Authority, order: Order) -> asyncio.Future[Answer]:
        """Return the future of an order's answer.

        It fails with ``ChannelLostError`` where the process is gone before it.

        Raises:
            UnavailableError: too many wait.
        """
        if len(self._waiting) >= MAX_WAITING:
            raise UnavailableError("the CA can't sign more now", hint="try again in a moment")
        answered: asyncio.Future[Answer] = self._loop.create_future()
        if self.lost.done():
            answered.set_exception(ChannelLostError())
            return answered
        self._waiting.append((authority, order, answered))
        if not self._is_sending:
            self._is_sending = True
            self._loop.call_soon(self._send)
        return answered

    def data_received(self, data: bytes) -> None:
        """Give each answer to who waits for it."""
        try:
            for frame in self._reader.take(data):
                self._take(self._decoder.decode(frame))
        except (ProtocolError, msgspec.DecodeError, LookupError) as error:
            self.end(f"it isn't understood: {error!r}")
            return
        if self._waiting and not self._is_sending:
            self._send()

    def connection_lost(self, error: Exception | None) -> None:
        """Note that the process has ended, or closed its socket."""
        self.end("it has ended")

    def end(self, why: str) -> None:
        """Give up what waits and what is out. The first reason stays."""
        if not self.lost.done():
            self.lost.set_result(why)
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        given_up = [*self._out.values(), *(answered for _, _, answered in self._waiting)]
        self._out.clear()
        self._waiting.clear()
        for answered in given_up:
            if not answered.done():
                answered.set_exception(ChannelLostError())
        if self._transport is not None:
            self._transport.abort()

    def _take(self, answers: Answers) -> None:
        self._heard = self._loop.time()
        if not self.ready.done():
            self.ready.set_result(None)
        for answer in answers:
            answered = self._out.pop(answer.number)
            if not answered.done():  # Who ordered it may have been cancelled.
                answered.set_result(answer)

    def _send(self) -> None:
        """Send what waits, as far as the process may have it."""
        self._is_sending = False
        while self._waiting and len(self._out) < MAX_OUTSTANDING:
            authority = self._waiting[0][0]
            orders: list[Order] = []
            while self._waiting and self._waiting[0][0] is authority and len(orders) < MAX_ORDERS:
                if len(self._out) >= MAX_OUTSTANDING:
                    break
                _, order, answered = self._waiting.popleft()
                if answered.done():  # Who ordered it has given up.
                    continue
                if not self._out:
                    self._heard = self._loop.time()
                self._out[order.number] = answered
                orders.append(order)
            if orders:
                self._write(authority, orders)
        if self._out and self._watch is None:
            self._watch = self._loop.call_later(self._answer_deadline_s, self._look)

    def _write(self, authority: Authority, orders: Sequence[Order]) -> None:
        handover = None
        if authority is not self._authority:
            handover, self._authority = write_handover(authority), authority
        assert self._transport is not None
        self._transport.write(write_frame(Orders(handover, list(orders))))

    def _look(self) -> None:
        """See that answers come. One timer at a time, as long as there are orders out."""
        self._watch = None
        if not self._out:
            return
        left_s = self._heard + self._answer_deadline_s - self._loop.time()
        if left_s <= 0:
            self.end("it doesn't answer")
        else:
            self._watch = self._loop.call_later(left_s, self._look)
