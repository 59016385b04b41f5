"""Which captured connection stands at which application's address and port: never two at once.

Attestation finds the application's socket by its four-tuple. Should two live connections have the same one, nothing
tells which is whose, and both are refused. The kernel prevents it in the cases that are known:

- The redirect never changes a source port: what it would have to change is dropped (``redirect_table.py``).
- A socket that is bound to a network device after ``connect`` (``socket(7)``: SO_BINDTODEVICE) leaves its four-tuple to
  another one. Conntrack leads that one to the same accepted connection, which its SYN ends: the first claim is dead
  before the second socket is connected. So whoever is attested must be alive *after* the kernel was asked.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from shared.model.policy.reasons import Reason
from sidecar.attest.facts import AttestationError
from sidecar.sockets.address import Endpoint, format_endpoint

_CLOSED = 7  # include/net/tcp_states.h


class Claim:
    """One captured connection's claim to be that of the application at its source."""

    __slots__ = ("_claims", "_on_contest", "connection", "path")

    def __init__(self, claims: Claims, connection: socket.socket, path: tuple[Endpoint, Endpoint]) -> None:
        self._claims = claims
        self._on_contest: Callable[[AttestationError], None] | None = None
        self.connection = connection
        self.path = path

    def leave(self) -> None:
        """The connection has ended."""
        self._claims.leave(self)

    def check(self) -> None:
        """See, after the application's socket was found, that it is this connection's.

        Raises:
            AttestationError: another live connection claims the same, or did (``socket_ambiguous``); or this one has
                been reset, so that the socket that was found is a later one (``process_vanished``).
        """
        if self._claims.is_contested(self):
            raise self._error()
        if is_closed(self.connection):
            message = f"the connection from {format_endpoint(self.path[0])} was reset before it was attested"
            raise AttestationError(message, reason=Reason.PROCESS_VANISHED)

    def on_contest(self, tell: Callable[[AttestationError], None]) -> None:
        """Have this called when another connection claims the same later."""
        self._on_contest = tell

    def contest(self) -> None:
        """Another connection claims the same."""
        if self._on_contest is not None:
            self._on_contest(self._error())

    def _error(self) -> AttestationError:
        source, destination = map(format_endpoint, self.path)
        return AttestationError(
            f"two connections claim to be the socket {source} to {destination}", reason=Reason.SOCKET_AMBIGUOUS
        )


class Claims:
    """The live claims. Bounded by the live connections."""

    def __init__(self) -> None:
        self._live: dict[tuple[Endpoint, Endpoint], list[Claim]] = {}
        self._contested: set[Claim] = set()

    def enter(self, connection: socket.socket, source: Endpoint, destination: Endpoint) -> Claim:
        """Take a connection in; a rival that lives is told, and neither is believed.

        Arguments:
            source, destination: what the application's socket has as its own address and its peer's.
        """
        claim = Claim(self, connection, (source, destination))
        rivals = self._live.setdefault(claim.path, [])
        if contested := [each for each in rivals if not is_closed(each.connection)]:
            self._contested.update((claim, *contested))
            for rival in contested:
                rival.contest()
        rivals.append(claim)
        return claim

    def leave(self, claim: Claim) -> None:
        """The connection has ended."""
        self._contested.discard(claim)
        rivals = self._live[claim.path]
        rivals.remove(claim)
        if not rivals:
            del self._live[claim.path]

    def is_contested(self, claim: Claim) -> bool:
        """Tell whether a rival of this connection was alive when the later one of both was accepted."""
        return claim in self._contested


def is_closed(connection: socket.socket) -> bool:
    """Tell whether the connection is dead: its application may have connected again from the same port."""
    try:
        return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _CLOSED
    except OSError:
        return True
