"""The application's socket behind an accepted connection: the one that dialled, or none.

Belongs here: which socket that can be. Doesn't: who holds it (``holding``), asking the kernel (``netlink``).
"""

from __future__ import annotations

from shared.model.policy.reasons import Reason
from sidecar.attest.facts import AttestationError, ProcessFacts
from sidecar.attest.netlink.kernel_sockets import KernelSockets
from sidecar.attest.netlink.sock_diag import ESTABLISHED, FIN_WAIT1, FIN_WAIT2, KernelSocket, NetlinkError
from sidecar.sockets.address import Endpoint

# What a socket can be whose connection was accepted and that got no end from us: it may have sent its own.
_DIALLED = frozenset({ESTABLISHED, FIN_WAIT1, FIN_WAIT2})


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


def check_dialled(found: KernelSocket) -> None:
    """See that the socket can be the one that made an accepted connection, and that somebody holds it.

    Raises:
        AttestationError: it isn't connected or has been answered already, so it is another one with the same address
            (``socket_ambiguous``); or it has no owner any more (``sender_gone``).
    """
    if found.state not in _DIALLED:
        message = f"the socket {found.local[0]}:{found.local[1]} isn't connected (state {found.state})"
        raise AttestationError(message, reason=Reason.SOCKET_AMBIGUOUS)
    if found.received > 0:
        # By its other end, not by this sidecar: nothing is sent before the look.
        message = f"the socket {found.local[0]}:{found.local[1]} has been answered already: it is another connection's"
        raise AttestationError(message, reason=Reason.SOCKET_AMBIGUOUS)
    refuse_orphan(found)


def refuse_orphan(found: KernelSocket, process: ProcessFacts | None = None) -> None:
    """See that somebody holds the socket.

    Arguments:
        process: who held it last, where that is known.

    Raises:
        AttestationError: ``sender_gone``.
    """
    if not found.inode:
        message = f"the owner of {found.local[0]}:{found.local[1]} has closed it or ended"
        raise AttestationError(message, reason=Reason.SENDER_GONE, process=process)
