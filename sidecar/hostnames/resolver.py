"""Asks nameservers for a name's addresses of one kind: UDP, then TCP where an answer doesn't fit. I/O.

Belongs here: one question with its deadlines. Doesn't: what is remembered of answers (``known.py``), when to ask
(``host_names.py``). Names are asked for as they are: no search list, no ``/etc/hosts``.
"""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import dataclass
from typing import Final

from sidecar.hostnames.message import (
    AddressAnswer,
    MessageError,
    NotTheAnswerError,
    RecordType,
    TruncatedError,
    read_answer,
    write_query,
)
from sidecar.sockets.address import Endpoint, format_endpoint
from sidecar.sockets.dial import dial
from sidecar.sockets.polling import poller_of

_ROUNDS: Final = 2  # UDP loses packets.
_MAX_DATAGRAM_BYTES: Final = 4096
# A datagram that isn't the answer is passed over, but not for ever.
_MAX_PASSED_OVER: Final = 64
_KINDS: Final = {4: RecordType.A, 6: RecordType.AAAA}
VERSIONS: Final = tuple(_KINDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """A name's addresses of one kind, or why they couldn't be had.

    Attributes:
        version: of IP; 4 or 6.
        ttl_s: how long the answer may be used; 0 where nothing is said.
        failure: why it couldn't be asked for; empty where it was answered.
    """

    version: int
    addresses: tuple[str, ...] = ()
    ttl_s: int = 0
    failure: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolver:
    """A stub resolver.

    Attributes:
        nameservers: asked one after the other until one answers.
        mark: SO_MARK of the sidecar's own sockets; 0 for none.
        try_s: how long one of them may take to answer.
        deadline_s: how long a question may take.
    """

    nameservers: tuple[Endpoint, ...]
    mark: int = 0
    try_s: float = 1.5
    deadline_s: float = 5.0

    async def resolve(self, name: str, version: int) -> Resolved:
        """Return a name's addresses of one IP version; that they can't be had is said in the value."""
        answer = await self._ask(name, _KINDS[version])
        if isinstance(answer, str):
            return Resolved(version=version, failure=answer)
        addresses = tuple(dict.fromkeys(answer.addresses))
        return Resolved(version=version, addresses=addresses, ttl_s=answer.ttl_s if addresses else 0)

    async def _ask(self, name: str, kind: RecordType) -> AddressAnswer | str:
        """Return the first answer, or why there is none."""
        failure = "no nameserver is known"
        try:
            async with asyncio.timeout(self.deadline_s):
                for _ in range(_ROUNDS):
                    for server in self.nameservers:
                        try:
                            async with asyncio.timeout(self.try_s):
                                return await self._ask_one(server, name, kind)
                        except TimeoutError:
                            failure = f"{format_endpoint(server)}: no answer in time"
                        except OSError as error:
                            failure = f"{format_endpoint(server)}: {error.strerror or error}"
                        except MessageError as error:
                            failure = f"{format_endpoint(server)}: {error}"
        except TimeoutError:
            failure = failure if self.nameservers and ":" in failure else "no answer in time"
        return failure

    async def _ask_one(self, server: Endpoint, name: str, kind: RecordType) -> AddressAnswer:
        # The identifier and the socket's port are what a forged answer would have to guess (RFC 5452).
        identifier = int.from_bytes(os.urandom(2), "big")
        query = write_query(identifier, name, kind)
        try:
            return await self._ask_by_datagram(server, query, identifier, name, kind)
        except TruncatedError:
            data = await self._ask_by_stream(server, query)
        try:
            return read_answer(data, identifier, name, kind)
        except (NotTheAnswerError, TruncatedError) as error:
            raise MessageError("it doesn't answer by TCP what was asked") from error

    async def _ask_by_datagram(
        self, server: Endpoint, query: bytes, identifier: int, name: str, kind: RecordType
    ) -> AddressAnswer:
        family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as asked:
            if self.mark:
                asked.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, self.mark)
            asked.connect(server)  # From now on the kernel drops what others send.
            asked.send(query)
            with poller_of(asyncio.get_running_loop()).watch(asked) as watch:
                for _ in range(_MAX_PASSED_OVER):
                    await watch.wait_readable()
                    try:
                        return read_answer(asked.recv(_MAX_DATAGRAM_BYTES), identifier, name, kind)
                    except (NotTheAnswerError, BlockingIOError):
                        continue
        raise MessageError("it doesn't answer what was asked")

    async def _ask_by_stream(self, server: Endpoint, query: bytes) -> bytes:
        """Ask by TCP (RFC 7766); the answer has at most 65,535 bytes."""
        loop = asyncio.get_running_loop()
        connection = await dial(loop, server, mark=self.mark, timeout_s=self.try_s)
        with connection, poller_of(loop).watch(connection) as watch:
            connection.send(len(query).to_bytes(2, "big") + query)  # Fits into an empty buffer.
            received = bytearray()
            while len(received) < 2 or len(received) < 2 + int.from_bytes(received[:2], "big"):
                await watch.wait_readable()
                try:
                    data = connection.recv(65_537 - len(received))
                except BlockingIOError:
                    continue
                if not data:
                    raise MessageError("it closed the connection before its answer was whole")
                received += data
        return bytes(received[2:])
