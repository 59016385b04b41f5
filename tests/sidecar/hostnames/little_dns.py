"""A little nameserver, on UDP and TCP of one loopback address and port; also a program of its own."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import cast

A, AAAA, CNAME = 1, 28, 5


def write_name(name: str) -> bytes:
    """A name, uncompressed."""
    return b"".join(bytes((len(label),)) + label.encode() for label in name.split(".")) + b"\0"


@dataclass(kw_only=True)
class LittleDns:
    """What it answers.

    Attributes:
        addresses: by name.
        aliases: names that lead to other ones.
        code: of every answer; 2: SERVFAIL.
        ttl_s: of every record.
        is_silent: nothing is answered; ``silent_kinds``: nothing of these.
        truncates: by UDP it answers only that there is more.
        asked: names and kinds, in order; ``streams``: how many by TCP.
    """

    addresses: dict[str, Sequence[str]] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    code: int = 0
    ttl_s: int = 60
    is_silent: bool = False
    silent_kinds: tuple[int, ...] = ()
    truncates: bool = False
    asked: list[tuple[str, int]] = field(default_factory=list)
    streams: int = 0
    endpoint: tuple[str, int] = ("", 0)

    def answer(self, query: bytes) -> bytes:
        """The answer to a query."""
        identifier, place, labels = query[:2], 12, []
        while length := query[place]:
            labels.append(query[place + 1 : place + 1 + length].decode())
            place += 1 + length
        name = ".".join(labels)
        (kind,) = struct.unpack_from("!H", query, place + 1)
        question = query[12 : place + 5]
        self.asked.append((name, kind))
        records, exists = [], name in self.addresses or name in self.aliases
        owner = name
        while owner in self.aliases:
            target = self.aliases[owner]
            records.append(self._record(owner, CNAME, write_name(target)))
            owner = target
        for address in self.addresses.get(owner, ()):
            packed = ip_address(address).packed
            if kind == (A if len(packed) == 4 else AAAA):
                records.append(self._record(owner, kind, packed))
        code = self.code or (0 if exists else 3)
        if code:
            records = []
        header = identifier + struct.pack("!HHHHH", 0x8180 | code, 1, len(records), 0, 0)
        return header + question + b"".join(records)

    def _record(self, owner: str, kind: int, data: bytes) -> bytes:
        return write_name(owner) + struct.pack("!HHIH", kind, 1, self.ttl_s, len(data)) + data


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, dns: LittleDns) -> None:
        self._dns = dns

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        answer = self._dns.answer(data)
        if self._dns.truncates:
            # What comes first isn't the answer, as a forger's guess wouldn't be.
            self._transport.sendto(bytes((answer[0] ^ 1,)) + answer[1:], addr)
            answer = answer[:2] + bytes((answer[2] | 0x02,)) + answer[3:]
        if not self._dns.is_silent and self._dns.asked[-1][1] not in self._dns.silent_kinds:
            self._transport.sendto(answer, addr)


@asynccontextmanager
async def running_dns(dns: LittleDns, address: str = "127.0.0.1", port: int = 0) -> AsyncIterator[LittleDns]:
    """Serve on an address; by UDP and TCP on the same port."""
    loop = asyncio.get_running_loop()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        dns.streams += 1
        try:
            answer = dns.answer(await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big")))
            if not dns.is_silent:
                writer.write(len(answer).to_bytes(2, "big") + answer)
                await writer.drain()
        finally:
            writer.close()

    for attempt in range(20):
        server = await asyncio.start_server(serve, address, port)
        dns.endpoint = server.sockets[0].getsockname()[:2]
        datagrams = socket.socket(server.sockets[0].family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            datagrams.bind(dns.endpoint)
            break
        except OSError:  # Somebody has that UDP port.
            datagrams.close()
            server.close()
            if port or attempt == 19:
                raise
    transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(dns), sock=datagrams)
    try:
        yield dns
    finally:
        transport.close()
        server.close()


async def _serve_for_ever(address: str, port: int, records: Sequence[str]) -> None:
    dns = LittleDns()
    for record in records:
        name, _, found = record.partition("=")
        dns.addresses[name] = tuple(filter(None, found.split(",")))
    async with running_dns(dns, address, port):
        print("serving", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve_for_ever(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
