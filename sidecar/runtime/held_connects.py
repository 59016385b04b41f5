"""A program's ``connect()`` waits, before its first packet leaves, until it is known which program dials.

One that sends something and exits at once is often gone before its connection is accepted. While it waits it is there:
who holds the socket is attested, and the answer is kept for when the connection is accepted.

It costs each connection something, so that by default it is done for the ports alone whose programs were gone before
(``sidecar/connection/short_senders.py``); until there are such the queue isn't even open.

Belongs here: for how long which packet waits. Doesn't: the queue (``sidecar/capture/connect_queue.py``), attestation
(``sidecar/attestor.py``). Nothing depends on it: a packet that passes without an answer makes a connection whose
program is looked at when it is accepted, by the same rules.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

from shared.model.errors import MachineError
from shared.runtime.tasks import Tasks
from sidecar.attest.facts import Attestation, AttestationError
from sidecar.attest.netlink.sock_diag import KernelSocket
from sidecar.capture.connect_queue import ConnectQueue
from sidecar.capture.queue_messages import QueuedPacket, QueueMessageError
from sidecar.code_check import check_code, find_checked
from sidecar.connection.short_senders import REMEMBERED_S
from sidecar.control.backoff import Backoff
from sidecar.events import Events
from sidecar.parts import Sidecar
from sidecar.slices import SLICE_S

# Less than the second after which a kernel sends the packet again.
_MAX_HELD_S = 0.8
_MAX_HELD = 256
# A queue that was open for so long isn't one that can't be opened.
_SETTLED_S = 30.0


class HeldConnects:
    """Attests sockets while their ``connect()`` waits.

    Arguments:
        number: of the queue, as in the redirect table.
        always: whichever port is dialled.
        tasks: of what takes longer than a look on the event loop.
    """

    def __init__(self, sidecar: Sidecar, number: int, *, always: bool, tasks: Tasks, events: Events) -> None:
        self._sidecar = sidecar
        self._number = number
        self._always = always
        self._tasks = tasks
        self._events = events
        self._queue: ConnectQueue | None = None
        self._held: dict[int, QueuedPacket] = {}
        self._opened_at = 0.0
        self._backoff = Backoff()
        self._opening: asyncio.TimerHandle | None = None
        self._resting: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Have connections wait from now on, or from when a program was gone too early.

        Raises:
            MachineError: there is no queue to be had, and every connection is to wait.
        """
        self._sidecar.counts.holds_connects = False
        if self._always:
            self._open()
            return
        self._sidecar.short_senders.on_note(self._wake)
        self._wake()

    def _wake(self) -> None:
        """Open the queue if a port is known; it is closed when the last one is forgotten."""
        if self._queue is not None or self._opening is not None:
            return
        self._rest_later()
        if self._resting is None:
            return
        try:
            self._open()
        except MachineError as error:
            self._events.emit("connects_not_held", message=error.message[:500])
            self._open_later()
        else:
            self._events.emit("connects_held", until_s=round(REMEMBERED_S))

    def _rest_later(self) -> None:
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None
        end_s = self._sidecar.short_senders.find_end()
        if end_s is not None:
            self._resting = asyncio.get_running_loop().call_later(end_s + 1.0, self._rest)

    def _rest(self) -> None:
        """Give the queue back, unless another port was noted since."""
        self._rest_later()
        if self._resting is None:
            self._stop()

    def _open(self) -> None:
        """Open the queue; when it breaks it is opened again.

        Raises:
            MachineError: there is none to be had.
        """
        queue = ConnectQueue(self._number)
        asyncio.get_running_loop().add_reader(queue.fileno(), self._take)
        self._queue = queue
        self._opened_at = time.monotonic()
        self._sidecar.counts.holds_connects = True

    def close(self) -> None:
        """Let pass what waits, and whatever comes from now on."""
        if not self._always:
            self._sidecar.short_senders.on_note(None)
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None
        self._stop()

    def _stop(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        self._sidecar.counts.holds_connects = False
        if self._queue is None:
            return
        asyncio.get_running_loop().remove_reader(self._queue.fileno())
        for packet in list(self._held.values()):
            self._let_pass(packet)
        self._queue.close()
        self._queue = None

    def _take(self) -> None:
        """Look at what waits, for 1 ms at most and one packet; the loop comes back while others wait."""
        until = time.monotonic() + SLICE_S
        while self._queue is not None:
            try:
                packets = self._queue.take()
            except (OSError, QueueMessageError) as error:
                self._lose(str(error))
                return
            if packets is None:
                return
            for packet in packets:
                self._held[packet.number] = packet
                if not self._is_waiting(packet):
                    self._let_pass(packet)
            if time.monotonic() >= until:
                return

    def _lose(self, why: str) -> None:
        self._stop()
        if time.monotonic() - self._opened_at > _SETTLED_S:
            self._backoff = Backoff()
        self._events.emit("connect_queue_lost", message=why[:500])
        self._open_later()

    def _open_later(self) -> None:
        """Packets pass meanwhile, and programs are looked at when their connection is accepted."""
        self._opening = asyncio.get_running_loop().call_later(self._backoff.next(), self._open_again)

    def _open_again(self) -> None:
        self._opening = None
        try:
            self._open()
        except MachineError:  # It was said that there is none; that hasn't changed.
            self._open_later()
        else:
            self._events.emit("connect_queue_reopened")

    def _is_waiting(self, packet: QueuedPacket) -> bool:
        """Look at who dials; tell whether the packet waits for a longer look."""
        attestor = self._sidecar.attestor
        if packet.ends is None or not (self._always or self._sidecar.short_senders.is_dialled(packet.ends[1][1])):
            return False
        if (found := attestor.find_dialling(*packet.ends)) is None:
            return False
        try:
            attestation = attestor.attest_dialling_now(found)
        except AttestationError:  # It is said when the connection is accepted.
            return False
        if attestation is not None and not self._needs_code(attestation):
            attestor.keep_dialling(attestation)
            return False
        if len(self._held) > _MAX_HELD:
            return False
        self._tasks.spawn(self._look(packet, found, attestation), name="held-connect")
        return True

    def _needs_code(self, attestation: Attestation) -> bool:
        """Tell whether what the program has loaded must be looked at, and wasn't lately."""
        if find_checked(self._sidecar, attestation) is None:
            return False
        return self._sidecar.code.get_fresh(attestation.execution) is None

    async def _look(self, packet: QueuedPacket, found: KernelSocket, attestation: Attestation | None) -> None:
        attestor = self._sidecar.attestor
        try:
            with contextlib.suppress(AttestationError, TimeoutError):
                async with asyncio.timeout(_MAX_HELD_S):
                    attestation = attestation or await attestor.attest_dialling(found)
                    with contextlib.suppress(AttestationError):  # What it found is kept, and told on accept.
                        await check_code(self._sidecar, attestation)
                attestor.keep_dialling(attestation)
        finally:
            self._let_pass(packet)

    def _let_pass(self, packet: QueuedPacket) -> None:
        """A queue that is opened again counts from 1: another packet may have the number of one of the queue before."""
        if self._held.get(packet.number) is not packet:
            return
        del self._held[packet.number]
        if self._queue is not None:
            self._queue.let_pass(packet)
