"""The live connections of this sidecar: decided again when something changes, listed, closed at the end.

Belongs here: which connections live, and what is done to all of them. Doesn't: one connection (``connection.py``), how
many there may be (``sidecar/rooms.py``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from shared.model.policy.decision import Ending
from shared.model.policy.reasons import Reason
from shared.model.wire.messages import LiveConnection
from sidecar.attest.facts import Attestation, Execution
from sidecar.connection.connection import Connection
from sidecar.connection.describe import describe_live
from sidecar.connection.parties import forget_verdicts
from sidecar.slices import run_in_slices

HOLDERS_PERIOD_S: Final = 2.0
_LEAST_KEPT: Final = 1024
# Whose attested process has ended is due so much earlier: nothing but the holders tells who goes on with its socket.
_ORPHANS_SHARE: Final = 0.25


class LiveConnections:
    """Every connection that lives, from before its first decision until its record.

    Arguments:
        long_lived_s: a connection older than it gets a start record.
        holders_period_s: how long after a look for a socket's holders the next one is due.
    """

    def __init__(self, *, long_lived_s: float = 5.0, holders_period_s: float = HOLDERS_PERIOD_S) -> None:
        self._long_lived_s = long_lived_s
        self._holders_period_s = holders_period_s
        # With the execution that it is watched for.
        self._live: dict[Connection, Execution | None] = {}
        # Young connections, oldest first; one that has ended is skipped. Bounded by compaction.
        self._young: deque[Connection] = deque()
        # Those whose socket's holders were never looked for, and those that wait for the next look, by its time.
        self._unchecked: deque[Connection] = deque()
        self._checked: deque[tuple[float, Connection]] = deque()
        # Of those whose attested process has ended.
        self._orphans: deque[tuple[float, Connection]] = deque()
        self._by_execution: dict[Execution, dict[Connection, Attestation]] = {}
        self.total = 0
        self._prefers_due = True  # Turns before each answer.

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._live))

    def add(self, connection: Connection) -> None:
        """Register a connection, before its first decision."""
        self._live[connection] = None
        self.total += 1
        self._young.append(connection)
        if len(self._young) > self._most_kept():
            self._young = deque(each for each in self._young if each in self._live)

    def remove(self, connection: Connection) -> None:
        """Forget a connection that ended."""
        if (execution := self._live.pop(connection, None)) is not None:
            self._unwatch(connection, execution)

    def decide_again(self, namespace: str = "") -> None:
        """Policies or programs changed: decide the live connections that this concerns again, in slices.

        Arguments:
            namespace: whose policy changed; empty: any.
        """
        forget_verdicts()
        run_in_slices(self._visit(lambda connection: connection.decide_again(), namespace))

    def check_peers_again(self) -> None:
        """The trust bundle, or foreign roots, changed: check every live connection's peer against it, in slices."""
        run_in_slices(self._visit(lambda connection: connection.check_peer_again()))

    def _visit(self, look: Callable[[Connection], None], namespace: str = "") -> Iterator[None]:
        """Look at the connections that live now; those that come later begin with what is in force by then."""
        for connection in self:
            if connection not in self._live or (namespace and not connection.parties.concerns(namespace)):
                continue
            try:
                look(connection)
            except Exception as error:  # A fault of ours must not keep the others from being looked at.
                connection.revoke(Reason.INTERNAL_ERROR, f"{type(error).__name__}: {error}"[:300])
            yield

    def close_all(self, ending: Ending = Ending.SHUTDOWN) -> None:
        """Close every live connection: this sidecar stops."""
        for connection in self:
            connection.abort(ending)

    def end_overdue(self, now: float, *, idle_s: float, max_s: float) -> None:
        """End connections that have been idle, or have lived, for longer than this; 0: for as long as they want.

        Arguments:
            now: monotonic.
        """
        if idle_s or max_s:
            for connection in self:
                connection.end_if_overdue(now, idle_s=idle_s, max_s=max_s)

    def record_long_lived(self, now: float) -> None:
        """Write the start record of each connection that has become long-lived.

        Arguments:
            now: seconds since the epoch.
        """
        while self._young and (self._young[0] not in self._live or now - self._young[0].since >= self._long_lived_s):
            connection = self._young.popleft()
            if connection in self._live:
                connection.record_start()

    def watch(self, connection: Connection) -> None:
        """Have the attested program, and the holders of its socket, looked at while the connection lives.

        Called again when another process turns out to be the one: of a server, that which has accepted.
        """
        if connection not in self._live:
            return
        attestation, before = connection.parties.attestation, self._live[connection]
        if before is None:
            self._unchecked.append(connection)
            if len(self._unchecked) > self._most_kept():
                self._unchecked = deque(each for each in self._unchecked if each in self._live)
        if attestation is None or before == attestation.execution:
            return
        if before is not None:
            self._unwatch(connection, before)
        self._live[connection] = attestation.execution
        self._by_execution.setdefault(attestation.execution, {})[connection] = attestation

    def check_soon(self, connection: Connection) -> None:
        """Have the holders of a connection's socket looked for in the next pass."""
        if connection in self._live:
            self._unchecked.append(connection)

    def _unwatch(self, connection: Connection, execution: Execution) -> None:
        if (served := self._by_execution.get(execution)) is not None:
            served.pop(connection, None)
            if not served:
                del self._by_execution[execution]

    def list_attestations(self) -> list[Attestation]:
        """List one attestation of each execution that has live connections."""
        return [next(iter(served.values())) for served in self._by_execution.values()]

    def list_of(self, execution: Execution) -> list[Connection]:
        """List the live connections of one execution."""
        return list(self._by_execution.get(execution, ()))

    def next_unchecked(self, now: float) -> Connection | None:
        """Return a live connection whose socket's holders are to be looked for: a new one and one due again, in turn.

        However many are new, those that are due again don't wait for ever.

        Arguments:
            now: the loop's time.
        """
        self._prefers_due = not self._prefers_due
        if self._prefers_due and (due := self._next_due(now)) is not None:
            return due
        while self._unchecked:
            connection = self._unchecked.popleft()
            if connection in self._live:
                return connection
        return None if self._prefers_due else self._next_due(now)

    def _next_due(self, now: float) -> Connection | None:
        for checked in (self._orphans, self._checked):
            while checked and (checked[0][0] <= now or checked[0][1] not in self._live):
                connection = checked.popleft()[1]
                if connection in self._live:
                    return connection
        return None

    def note_checked(self, connection: Connection, now: float) -> None:
        """Have the holders of a connection's socket looked for again after a while, if it still lives then."""
        if connection in self._live:
            if connection.is_orphaned:
                self._orphans.append((now + self._holders_period_s * _ORPHANS_SHARE, connection))
            else:
                self._checked.append((now + self._holders_period_s, connection))
        for kept in (self._checked, self._orphans):
            if len(kept) > self._most_kept():
                alive = [each for each in kept if each[1] in self._live]
                kept.clear()
                kept.extend(alive)

    def _most_kept(self) -> int:
        """Return how long a queue may grow before what has ended is taken out of it."""
        return 2 * len(self._live) + _LEAST_KEPT

    def describe(self, limit: int) -> tuple[tuple[LiveConnection, ...], bool]:
        """Describe the live connections, at most ``limit``, and whether there are more."""
        live = list(self._live)
        return tuple(describe_live(each, since=each.since) for each in live[:limit]), len(live) > limit
