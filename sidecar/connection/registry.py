"""The live connections of this sidecar: decided again when something changes, listed, bounded, closed at the end.

Belongs here: which connections live, and what is done to all of them. Doesn't: one connection (``connection.py``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from shared.model.policy.decision import Ending
from shared.model.wire.messages import LiveConnection
from sidecar.connection.connection import Connection
from sidecar.connection.describe import describe_live
from sidecar.connection.parties import forget_verdicts


class LiveConnections:
    """Every connection that lives, from before its first decision until its record.

    Arguments:
        max_connections: bound; a connection above it is refused with ``overloaded``.
        long_lived_s: a connection older than it gets a start record.
    """

    def __init__(self, *, max_connections: int = 4096, long_lived_s: float = 5.0) -> None:
        self._max_connections = max_connections
        self._long_lived_s = long_lived_s
        self._live: dict[Connection, None] = {}
        # Young connections, oldest first; one that ended meanwhile is passed over. Bounded by compaction.
        self._young: deque[Connection] = deque()
        self._unchecked: deque[Connection] = deque()
        self.total = 0

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._live))

    def add(self, connection: Connection) -> None:
        """Register a connection, before its first decision."""
        self._live[connection] = None
        self.total += 1
        self._young.append(connection)
        if len(self._young) > 2 * self._max_connections:
            self._young = deque(each for each in self._young if each in self._live)

    def remove(self, connection: Connection) -> None:
        """Forget a connection that ended."""
        self._live.pop(connection, None)

    @property
    def is_full(self) -> bool:
        """Whether one connection more would be over the bound."""
        return len(self._live) > self._max_connections

    def decide_again(self) -> None:
        """Policies or programs changed: decide every live connection again."""
        forget_verdicts()
        for connection in self:
            connection.decide_again()

    def check_peers_again(self) -> None:
        """The trust bundle, or foreign roots, changed: check every live connection's peer against it."""
        for connection in self:
            connection.check_peer_again()

    def close_all(self, ending: Ending = Ending.SHUTDOWN) -> None:
        """Close every live connection: this sidecar stops."""
        for connection in self:
            connection.abort(ending)

    def record_long_lived(self, now: float) -> None:
        """Write the start record of each connection that has become long-lived.

        Arguments:
            now: seconds since the epoch.
        """
        while self._young and (self._young[0] not in self._live or now - self._young[0].since >= self._long_lived_s):
            connection = self._young.popleft()
            if connection in self._live:
                connection.record_start()

    def watch_holders(self, connection: Connection) -> None:
        """Have the connection's socket looked for in every process, if it still lives then."""
        self._unchecked.append(connection)
        if len(self._unchecked) > 2 * self._max_connections:
            self._unchecked = deque(each for each in self._unchecked if each in self._live)

    def next_unchecked(self) -> Connection | None:
        """Return the oldest live connection whose socket's holders weren't looked for yet."""
        while self._unchecked:
            connection = self._unchecked.popleft()
            if connection in self._live:
                return connection
        return None

    def describe(self, limit: int) -> tuple[tuple[LiveConnection, ...], bool]:
        """Describe the live connections, at most ``limit``, and whether there are more."""
        live = list(self._live)
        return tuple(describe_live(each, since=each.since) for each in live[:limit]), len(live) > limit
