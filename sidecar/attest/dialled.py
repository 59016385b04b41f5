"""The application's socket behind an accepted connection: the one that dialled, or none.

Belongs here: which socket that can be, and what was found out about it while it still dialled. Doesn't: who holds it
(``holding``), asking the kernel (``netlink``), making it wait (``sidecar/capture/connect_queue.py``).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

from shared.model.policy.reasons import Reason
from sidecar.attest.facts import Attestation, AttestationError, ProcessFacts
from sidecar.attest.netlink.kernel_sockets import KernelSockets
from sidecar.attest.netlink.sock_diag import ESTABLISHED, FIN_WAIT1, FIN_WAIT2, SYN_SENT, KernelSocket, NetlinkError
from sidecar.attest.program_look import MAX_AGE_S
from sidecar.sockets.address import Endpoint

# What a socket can be whose connection was accepted and that got no end from us: it may have sent its own.
_DIALLED = frozenset({ESTABLISHED, FIN_WAIT1, FIN_WAIT2})
_MAX_KEPT = 512
_KEPT_S = 2.0


def find_dialled(source: Endpoint, destination: Endpoint) -> KernelSocket:
    """Find the one socket, also if it is bound to a network device. Runs in a worker, on a netlink socket of its own.

    Raises:
        AttestationError: there is no such socket, or several, or the kernel can't be asked.
    """
    try:
        kernel = KernelSockets()
        try:
            found = kernel.list_all(source, destination)
        finally:
            kernel.close()
    except (NetlinkError, OSError, ValueError) as error:
        raise AttestationError("the kernel can't be asked for the socket", reason=Reason.NO_OWNER) from error
    if not found:
        message = f"the socket {source[0]}:{source[1]} doesn't exist any more"
        raise AttestationError(message, reason=Reason.SENDER_GONE)
    if len(found) > 1:
        message = f"{len(found)} sockets have the address {source[0]}:{source[1]} and this destination"
        raise AttestationError(message, reason=Reason.SOCKET_AMBIGUOUS)
    return found[0]


def find_dialling(kernel: KernelSockets, source: Endpoint, destination: Endpoint) -> KernelSocket | None:
    """Find the socket whose ``connect()`` has sent a first packet and waits; never waits itself."""
    try:
        found = kernel.find(source, destination)
    except (NetlinkError, OSError, ValueError):
        return None
    return found if found is not None and found.state == SYN_SENT and found.inode else None


def kind_of(dialled: KernelSocket) -> Hashable:
    """Return what connections to one destination by one user have in common: mostly one process makes them."""
    return dialled.peer, dialled.uid


def check_dialled(found: KernelSocket) -> None:
    """See that the socket can be the one that made an accepted connection.

    Raises:
        AttestationError: it isn't connected or has been answered already, so it is another one with the same address
            (``socket_ambiguous``).
    """
    if found.state not in _DIALLED:
        message = f"the socket {found.local[0]}:{found.local[1]} isn't connected (state {found.state})"
        raise AttestationError(message, reason=Reason.SOCKET_AMBIGUOUS)
    if found.received > 0:
        # By its other end, not by this sidecar: nothing is sent before the look.
        message = f"the socket {found.local[0]}:{found.local[1]} has been answered already: it is another connection's"
        raise AttestationError(message, reason=Reason.SOCKET_AMBIGUOUS)


def refuse_orphan(found: KernelSocket, process: ProcessFacts | None = None) -> None:
    """See that somebody holds the socket.

    Arguments:
        process: who held it last, where that is known.

    Raises:
        AttestationError: ``sender_gone``.
    """
    if not found.inode:
        # Some kernels don't say any more whose socket it was, which reads as root's.
        owner = f" of user {found.uid}" if found.uid > 0 else ""
        message = (
            f"the program{owner} that dialled from {found.local[0]}:{found.local[1]} had ended or closed its socket"
        )
        raise AttestationError(message, reason=Reason.SENDER_GONE, process=process)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    attestation: Attestation
    at: float


class Dialling:
    """Who held a socket while its ``connect()`` waited, until the connection is accepted. At most 512, for 2 s each.

    Belongs to the event loop's thread.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[int, _Kept] = OrderedDict()

    def keep(self, attestation: Attestation) -> None:
        """Keep what was attested, if the process still runs that program; the socket is known by its cookie."""
        now = time.monotonic()
        while self._kept:
            cookie, oldest = next(iter(self._kept.items()))
            if now - oldest.at <= _KEPT_S and len(self._kept) < _MAX_KEPT:
                break
            del self._kept[cookie]
        if _runs(attestation):
            self._kept[attestation.cookie] = _Kept(attestation=attestation, at=now)

    def take(self, found: KernelSocket) -> Attestation | None:
        """Return what was attested of the socket behind an accepted connection; None when another look has to tell.

        A process that has ended since counts if it was looked at 50 ms ago at most, as between two looks at a live one.
        """
        kept = self._kept.pop(found.cookie, None)
        if kept is None or time.monotonic() - kept.at > _KEPT_S:
            return None
        is_running = _runs(kept.attestation)
        if is_running is None:
            return kept.attestation if time.monotonic() - kept.at <= MAX_AGE_S else None
        return kept.attestation if is_running else None


def _runs(attestation: Attestation) -> bool | None:
    """Tell whether the process still runs what was attested; None where it has ended."""
    try:
        return attestation.execution.is_current()
    except ProcessLookupError:
        return None
    except OSError:
        return False
