"""The kernel's queue of packets that begin a program's connection: each waits until it is let pass.

Belongs here: the netlink socket. Doesn't: the messages (``queue_messages.py``), the rule that fills the queue
(``redirect_table.py``), what is done while a packet waits (``sidecar/runtime/held_connects.py``).

It needs CAP_NET_ADMIN in the network namespace for as long as it is used: the kernel asks at each message
(``net/netfilter/nfnetlink.c``, ``nfnetlink_rcv``).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket

from shared.model.errors import MachineError
from sidecar.capture.queue_messages import (
    MAX_MESSAGE_BYTES,
    Answer,
    QueuedPacket,
    QueueMessageError,
    build_accept,
    build_bind,
    build_settings,
    parse_messages,
)

# What is too much passes unheld: its program is looked at when its connection is accepted, as without a queue.
MAX_PACKETS = 1_024
_NETLINK_NETFILTER = 12
_ANSWER_TIMEOUT_S = 5.0
_MAX_ANSWERS = 64


class ConnectQueue:
    """One open queue. When it is closed the kernel drops what waits in it, and programs' kernels try again.

    Arguments:
        number: of the queue in this network namespace.

    Raises:
        MachineError: the kernel has no such queue to give, or CAP_NET_ADMIN is missing.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        except OSError as error:
            raise _refused(error.errno) from error
        try:
            self._socket.settimeout(_ANSWER_TIMEOUT_S)
            self._ask(build_bind(number, sequence=1), 1)
            self._ask(build_settings(number, max_packets=MAX_PACKETS, sequence=2), 2)
            self._socket.setblocking(False)
        except (OSError, QueueMessageError) as error:
            self._socket.close()
            raise _refused(error.errno if isinstance(error, OSError) else 0) from error
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """Return the descriptor that is readable when packets wait."""
        return self._socket.fileno()

    def close(self) -> None:
        """Give the queue back."""
        self._socket.close()

    def take(self) -> list[QueuedPacket] | None:
        """Take the packets of one message of the kernel's, mostly one; never waits. Each waits on until ``let_pass``.

        Returns:
            None where no message waits; nothing for one that is no packet, after which others may wait.

        Raises:
            OSError: the queue is of no use any more, such as without CAP_NET_ADMIN.
            QueueMessageError: what came can't be read.
        """
        try:
            data, (port, _groups) = self._socket.recvfrom(MAX_MESSAGE_BYTES)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno == errno.ENOBUFS:  # What didn't fit was let pass.
                return []
            raise
        if port != 0:  # Only the kernel speaks from port 0; other processes may write to this socket as well.
            return []
        found: list[QueuedPacket] = []
        for each in parse_messages(data):
            if isinstance(each, QueuedPacket):
                found.append(each)
            elif each.errno not in (0, errno.ENOENT):  # ENOENT: the packet went with its network device.
                raise OSError(each.errno, os.strerror(each.errno))
        return found

    def let_pass(self, packet: QueuedPacket) -> None:
        """Let a packet go on. Until then its program's ``connect()`` waits."""
        with contextlib.suppress(OSError):  # No memory, or closed: a packet that isn't let pass is sent again.
            self._socket.send(build_accept(self._number, packet.number))

    def _ask(self, request: bytes, sequence: int) -> None:
        self._socket.sendto(request, (0, 0))
        for _ in range(_MAX_ANSWERS):
            data, (port, _groups) = self._socket.recvfrom(MAX_MESSAGE_BYTES)
            if port != 0:
                continue
            for answer in parse_messages(data):
                if isinstance(answer, Answer) and answer.sequence == sequence:
                    if answer.errno:
                        raise OSError(answer.errno, os.strerror(answer.errno))
                    return
                if isinstance(answer, QueuedPacket):
                    self.let_pass(answer)
        raise QueueMessageError("no answer")


def _refused(number: int | None) -> MachineError:
    why = os.strerror(number) if number else "no answer"
    return MachineError(
        f"the kernel gives no queue for connections to wait in: {why}",
        hint="redirect.holdConnects needs NET_ADMIN, a kernel with NETFILTER_NETLINK_QUEUE, and a queue that is free",
    )
