"""One open stream to the CA: its messages, in the protocol that was chosen for it, and what waits to be sent on it.

Belongs here: reading, writing and closing one stream. Doesn't: opening one (``opening.py``), what follows its loss
(``feed.py``).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import msgspec
from websockets.asyncio.client import ClientConnection
from websockets.frames import CloseCode

from shared.model.errors import ProtocolError
from shared.model.wire.messages import FromCA, FromSidecar, decode_from_ca, encode_message, express_in

MAX_QUEUED = 4096
_SEND_S = 15.0
_MAX_DECODED_AT_ONCE = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Link:
    """One stream, and at most ``MAX_QUEUED`` messages that wait to be sent on it."""

    stream: ClientConnection
    protocol: int
    outgoing: asyncio.Queue[FromSidecar] = field(default_factory=lambda: asyncio.Queue(MAX_QUEUED))

    async def send(self, message: FromSidecar) -> None:
        """Send a message now; nothing where the chosen protocol doesn't have it."""
        if (known := express_in(self.protocol, message)) is not None:
            await self.stream.send(encode_message(known), text=True)

    async def receive(self) -> FromCA:
        """Wait for the next message. It has no deadline: silence is normal, and pings notice a dead peer.

        Raises:
            ProtocolError: it can't be read.
            ConnectionClosed: the stream has ended.
        """
        data = await self.stream.recv()
        try:
            return await decode(data.encode() if isinstance(data, str) else data)
        except msgspec.DecodeError as error:
            raise ProtocolError(f"the CA sent a message that can't be read: {error}"[:300]) from error

    async def send_queued(self) -> None:
        """Send what is queued, until cancelled.

        Raises:
            TimeoutError: one message took too long.
            ConnectionClosed: the stream has ended.
        """
        while True:
            message = await self.outgoing.get()
            async with asyncio.timeout(_SEND_S):
                await self.send(message)

    async def close(self, *, timeout_s: float, is_stopping: bool = True) -> None:
        """Close the stream within a deadline. If this sidecar stops, its addresses are free for others then."""
        try:
            async with asyncio.timeout(timeout_s):
                await self.stream.close(CloseCode.GOING_AWAY if is_stopping else CloseCode.NORMAL_CLOSURE)
        except TimeoutError:
            self.abort()

    def abort(self) -> None:
        """End the stream without a goodbye."""
        self.stream.transport.abort()


async def decode(data: bytes) -> FromCA:
    """Read the CA's message; a large one in a thread, since its values are checked for as long as a second.

    Raises:
        msgspec.DecodeError: it isn't such a message.
    """
    return decode_from_ca(data) if len(data) <= _MAX_DECODED_AT_ONCE else await asyncio.to_thread(decode_from_ca, data)
