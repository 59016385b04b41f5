"""Which sockets listen on a port, as the kernel says now, or as it said a moment ago. Does I/O, never waits.

Belongs here: the list for an address, which of them are the sidecar's own, for how long a list serves. Doesn't: who
holds them (``sidecar/attestor.py``).

The kernel walks its whole table of listeners for a list, whatever the port: as much work as all other looks at a
known program together. So what a connection is dialled by may be a list that is 50 ms old, as the looks at programs
are; each socket on it is looked for in its process all the same, so that one which was closed is noticed. One that
was opened since isn't: whoever must know lists them afresh after the dial (``sidecar/proving.py``).
"""

from __future__ import annotations

import time
from typing import Final

from shared.model.policy.reasons import Reason
from sidecar.attest.facts import AttestationError
from sidecar.attest.netlink.kernel_sockets import KernelSockets
from sidecar.attest.netlink.sock_diag import KernelSocket, NetlinkError, covers, normalise_address

# For so long a list of a port's listeners serves the connections that are dialled by it.
LISTED_AGE_S: Final = 0.05
_MAX_LISTENERS: Final = 1_024
_MAX_OWN: Final = 1_024
_MAX_PORTS: Final = 256
_MAX_KEPT: Final = 64
_NONE: Final[tuple[float, list[KernelSocket]]] = (0.0, [])


class Listeners:
    """The listeners of this network namespace, without the sidecar's own. Belongs to the event loop's thread.

    Arguments:
        kernel: is asked.
    """

    def __init__(self, kernel: KernelSockets) -> None:
        self._kernel = kernel
        self._own: set[int] = set()
        # By port: until when the list serves, and what it says.
        self._recent: dict[int, tuple[float, list[KernelSocket]]] = {}

    def note_own(self, listener: KernelSocket) -> None:
        """Leave a listener of the sidecar's out from now on."""
        if len(self._own) >= _MAX_OWN:
            self._own.clear()
        self._own.add(listener.cookie)

    def list_recent(self, address: str, port: int) -> list[KernelSocket]:
        """List who listens on an address and port, perhaps by what the kernel said 50 ms ago at most.

        Raises:
            AttestationError: as ``list_now``, which is asked wherever the earlier list has nobody.
        """
        until, found = self._recent.get(port, _NONE)
        try:
            if time.monotonic() < until and (listeners := self._choose(found, address)):
                return listeners
        except ValueError:
            pass  # It is no address, as is said below.
        return self.list_now(address, port)

    def list_now(self, address: str, port: int) -> list[KernelSocket]:
        """List who listens on an address and port now.

        Raises:
            AttestationError: nobody does, or the kernel can't be asked (``no_listener``), or too many (``overloaded``).
        """
        self._recent.pop(port, None)
        until = time.monotonic() + LISTED_AGE_S
        try:
            found = self._kernel.listeners(port)
            listeners = self._choose(found, address)
        except (NetlinkError, OSError, ValueError) as error:
            message = f"the listeners on port {port} can't be listed"
            raise AttestationError(message, reason=Reason.NO_LISTENER) from error
        if not listeners:
            raise AttestationError(f"nothing listens on {address} port {port}", reason=Reason.NO_LISTENER)
        if len(listeners) > _MAX_LISTENERS:
            raise AttestationError(f"{len(listeners)} listeners on port {port}", reason=Reason.OVERLOADED)
        if len(found) <= _MAX_KEPT:
            if len(self._recent) >= _MAX_PORTS:
                self._recent.clear()
            self._recent[port] = until, found
        return listeners

    def _choose(self, found: list[KernelSocket], address: str) -> list[KernelSocket]:
        address = normalise_address(address)
        return [one for one in found if covers(one, address) and one.cookie not in self._own]
