"""New processes that are looked at while their connection begins: they may be gone before a worker looks.

Belongs here: which look is made on the event loop, how often, and what is kept of it. Doesn't: finding the process
(``newest.py``), the look (``sidecar/attest/measure.py``).
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sidecar.attest.facts import AttestationError
from sidecar.attest.holding.newest import find_among_newest
from sidecar.attest.measure import Sighting, sight
from sidecar.attest.netlink.sock_diag import KernelSocket
from sidecar.sockets.address import Endpoint

# Looks among the newest processes that find nothing take at most a fifth of the event loop's time.
_REST_FACTOR = 4
_MAX_CAUGHT = 16
# A larger table is searched where sockets were found, and for its newest ones.
_MAX_DESCRIPTORS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Caught:
    """A holder that was looked at when its connection began.

    Attributes:
        kind: connections of one kind are mostly made by one process.
    """

    found: KernelSocket
    sighting: Sighting
    kind: Hashable

    def is_fellow(self, found: KernelSocket) -> bool:
        """Tell whether the process holds another socket as well, and runs what was looked at.

        Raises:
            AttestationError: it is traced, or gone.
        """
        process = self.sighting.process
        # The very same socket behind a second connection: the full search tells.
        if not found.inode or found.cookie == self.found.cookie:
            return False
        if not process.find_descriptor(found.inode, max_descriptors=_MAX_DESCRIPTORS):
            return False
        process.refuse_tracer(all_threads=False)
        return not process.has_executed() and process.read_executable() == self.sighting.key


class CaughtHolders:
    """Belongs to the event loop's thread.

    Arguments:
        own_pid: the sidecar, which is left out.
    """

    def __init__(self, *, own_pid: int) -> None:
        self._own_pid = own_pid
        self._caught: dict[tuple[Endpoint, Endpoint], Caught] = {}
        self._measured: dict[Hashable, Caught] = {}
        self._rests_until = 0.0

    def close(self) -> None:
        """Close what is kept."""
        for caught in self._caught.values():
            caught.sighting.close()
        self._caught.clear()

    def has(self, source: Endpoint, destination: Endpoint) -> bool:
        """Tell whether the holder of this connection's socket was looked at."""
        return (source, destination) in self._caught

    def catch(self, source: Endpoint, destination: Endpoint, found: KernelSocket, kind: Hashable) -> bool:
        """Look at the socket's holder at once if it is a new process; the caller sees to ``forget``.

        Not while another one of its kind waits or is measured: a program may start with a burst of connections.
        """
        if any(each.kind == kind for each in self._caught.values()):
            return False
        if (caught := self.look_at(found, kind)) is None:
            return False
        if len(self._caught) >= _MAX_CAUGHT:
            self._caught.pop(next(iter(self._caught))).sighting.close()
        self._caught[source, destination] = caught
        return True

    def look_at(self, found: KernelSocket, kind: Hashable) -> Caught | None:
        """Look at the socket's holder if it is a new process; the caller closes the sighting."""
        if kind in self._measured:
            return None
        began = time.monotonic()
        if began < self._rests_until:
            return None
        process = find_among_newest(found.inode, own_pid=self._own_pid)
        if process is None:
            # Of many processes that have long been there and connect at once, none is among the newest.
            ended = time.monotonic()
            self._rests_until = ended + _REST_FACTOR * (ended - began)
            return None
        try:
            return Caught(found=found, sighting=sight(process, found.inode), kind=kind)
        except AttestationError:  # Whatever it is: the full search tells.
            process.close()
            return None

    def take(self, source: Endpoint, destination: Endpoint) -> Caught | None:
        """Take what was kept; the caller closes its sighting."""
        return self._caught.pop((source, destination), None)

    def forget(self, source: Endpoint, destination: Endpoint) -> None:
        """Close what is still kept of this connection."""
        if (caught := self.take(source, destination)) is not None:
            caught.sighting.close()

    @contextmanager
    def measuring(self, caught: Caught) -> Iterator[None]:
        """While it is measured, no other one of its kind is looked at, except one that was caught before."""
        self._measured[caught.kind] = caught
        try:
            yield
        finally:
            if self._measured.get(caught.kind) is caught:
                del self._measured[caught.kind]

    def find_measured(self, kind: Hashable) -> Caught | None:
        """Return the one of this kind that is measured now: it may hold another one's socket as well."""
        return self._measured.get(kind)
