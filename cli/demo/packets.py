"""Looking at packets: does a marker travel in plaintext on this leg? AF_PACKET sockets, read in a thread. Does I/O.

It says what was seen, no more: a marker that isn't found proves something only beside a leg on which it was found.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, Self

_ETH_P_ALL: Final = 0x0003  # linux/if_ether.h
_CLONE_NEWNET: Final = 0x40000000  # linux/sched.h
_TCP: Final = 6
_MAX_PACKET_BYTES: Final = 65_600  # lo's MTU and headers.
_RECEIVE_BUFFER_BYTES: Final = 8 * 1024 * 1024
_POLL_S: Final = 0.1
_BACKLOG_S: Final = 3.0


@dataclass(slots=True, kw_only=True)
class Leg:
    """What one leg showed.

    Attributes:
        packets: TCP packets with a payload. ``hits``: those that held the marker.
    """

    name: str
    packets: int = 0
    hits: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tap:
    """A place to look at.

    Attributes:
        netns: path of the network namespace's file; None is this process's own.
        classify: names the leg of a packet by its two TCP ports; None: the packet is of no interest.
    """

    interface: str
    netns: str | None
    classify: Callable[[int, int], str | None]


@dataclass(slots=True)
class PacketWatch:
    """Watches taps for a marker while its context is open.

    Raises:
        PermissionError: this process may not open packet sockets (CAP_NET_RAW).
    """

    taps: tuple[Tap, ...]
    marker: bytes
    legs: dict[str, Leg] = field(default_factory=dict)
    _threads: list[threading.Thread] = field(default_factory=list)
    _sockets: list[socket.socket] = field(default_factory=list)
    _is_over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        try:
            for tap in self.taps:
                self._sockets.append(_open_tap(tap))
            for tap, opened in zip(self.taps, self._sockets, strict=True):
                thread = threading.Thread(target=self._watch, args=(tap, opened), name=f"packets {tap.interface}")
                self._threads.append(thread)
                thread.start()
        except BaseException:  # Ctrl-C may be raised before start() returns, when the thread runs already.
            self._end()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over.wait(2 * _POLL_S)  # What is on its way still counts.
        self._end()

    def _end(self) -> None:
        self._is_over.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        self._close()

    def find_plaintext(self, *, beside: str, between: str) -> bool | None:
        """Return whether the marker was on the wire; None when the watch can't tell: nothing seen where it must be."""
        plain, wire = self.legs.get(beside), self.legs.get(between)
        if plain is None or wire is None or not plain.hits or not wire.packets:
            return None
        return wire.hits > 0

    def _watch(self, tap: Tap, opened: socket.socket) -> None:
        ends = float("inf")
        while time.monotonic() < ends:
            if self._is_over.is_set() and ends == float("inf"):
                ends = time.monotonic() + _BACKLOG_S  # On a busy loopback much still waits to be read.
            try:
                packet = opened.recv(_MAX_PACKET_BYTES)
            except TimeoutError:
                if self._is_over.is_set():
                    return
                continue
            if (read := read_tcp(packet)) is None or not read[2]:
                continue
            name = tap.classify(read[0], read[1])
            if name is not None:
                leg = self.legs.setdefault(name, Leg(name=name))
                leg.packets += 1
                leg.hits += self.marker in read[2]

    def _close(self) -> None:
        for opened in self._sockets:
            opened.close()
        self._sockets.clear()


def read_tcp(packet: bytes) -> tuple[int, int, bytes] | None:
    """Read source port, destination port and payload of an IPv4 or IPv6 TCP packet; None for anything else.

    IPv6 extension headers aren't followed: the demo's own traffic has none (RFC 791, RFC 8200, RFC 9293).
    """
    if len(packet) >= 20 and packet[0] >> 4 == 4 and packet[9] == _TCP:
        start = (packet[0] & 0x0F) * 4
        end = struct.unpack_from("!H", packet, 2)[0] or len(packet)
    elif len(packet) >= 40 and packet[0] >> 4 == 6 and packet[6] == _TCP:
        start, end = 40, 40 + struct.unpack_from("!H", packet, 4)[0]
    else:
        return None
    if len(packet) < start + 20:
        return None
    source, destination = struct.unpack_from("!HH", packet, start)
    return source, destination, packet[start + (packet[start + 12] >> 4) * 4 : end]


def _open_tap(tap: Tap) -> socket.socket:
    def open_here() -> socket.socket:
        if tap.netns is not None:
            _enter_namespace(tap.netns)
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, socket.htons(_ETH_P_ALL))
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
            opened.bind((tap.interface, _ETH_P_ALL))
        except OSError:
            opened.close()
            raise
        opened.settimeout(_POLL_S)
        return opened

    # setns(2) changes the calling thread alone, and this one ends at once; the socket stays in its namespace.
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(open_here).result()


def _enter_namespace(path: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(descriptor, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), path)
    finally:
        os.close(descriptor)
