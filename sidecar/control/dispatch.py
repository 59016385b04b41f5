"""What the CA's messages do here: each goes to the part that it is about, and installs are acknowledged.

Belongs here: that routing. Doesn't: the stream's life (``feed.py``). Nothing here waits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from shared.model.errors import UnavailableError
from shared.model.identity.foreign import ForeignDomain
from shared.model.policy.rules import NamespaceState
from shared.model.trust.bundle import TrustBundle
from shared.model.wire.messages import (
    BundleChanged,
    BundleInstalled,
    ConnectionsQuery,
    ConnectionsReport,
    DecisionsStored,
    DirectoryEntry,
    ForeignTrustChanged,
    FromCA,
    FromSidecar,
    LiveConnection,
    NamespaceChanged,
    Reissue,
    Welcome,
)
from sidecar.connection.recording import Recorder
from sidecar.credential.credential import KeyRequest
from sidecar.credential.store import CredentialStore
from sidecar.mesh.directory_cache import DirectoryCache
from sidecar.mesh.foreign_trust import ForeignRoots
from sidecar.mesh.policies import Policies
from sidecar.mesh.trust import Trust, make_verifier

MAX_REPORTED_CONNECTIONS = 10_000
ListConnections = Callable[[int], tuple[tuple[LiveConnection, ...], bool]]


class Outgoing(Protocol):
    """What takes messages to the CA: ``uplink.Uplink``."""

    def send(self, message: FromSidecar) -> None:
        """Queue a message; raises ``UnavailableError`` without a stream."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dispatch:
    """The parts that the CA speaks to.

    Attributes:
        list_connections: returns at most so many live connections, and whether there are more.
    """

    uplink: Outgoing
    trust: Trust
    foreign: ForeignRoots
    policies: Policies
    directory: DirectoryCache
    credentials: CredentialStore
    recorder: Recorder
    list_connections: ListConnections

    def receive(self, message: FromCA) -> None:
        """Act on one message.

        Raises:
            ProtocolError: it can't be right; the stream then ends.
        """
        match message:
            case BundleChanged():
                self._install_bundle(message.bundle)
            case ForeignTrustChanged():
                self._install_foreign(message.domains)
            case NamespaceChanged():
                self._install_namespace(message.state)
            case DirectoryEntry():
                self.directory.install(message)
            case DecisionsStored():
                self.recorder.acknowledge(message.batch)
            case Reissue():
                self.credentials.reissue(max(0.0, message.spread_s))
            case ConnectionsQuery():
                limit = max(0, min(message.limit, MAX_REPORTED_CONNECTIONS))
                connections, truncated = self.list_connections(limit)
                self._send(ConnectionsReport(request=message.request, connections=connections, truncated=truncated))
            case _:
                pass  # Answers have reached their waiters (``pending.py``).

    def resume(self, welcome: Welcome) -> None:
        """Take the welcome of a new stream, and ask again for everything that may have changed."""
        self._install_bundle(welcome.bundle)
        self._take_foreign(welcome)
        self._install_namespace(welcome.state)
        self._ask_again()

    def join_again(self, welcome: Welcome, request: KeyRequest) -> None:
        """Take the welcome of a repeated enrolment: its bundle and certificate stand in for whatever was before.

        Live connections go on as far as their peers' certificates hold against that bundle.

        Raises:
            CredentialError: the certificate can't be used, or is somebody else's; nothing has changed then.
            ProtocolError: the bundle can't be used.
        """
        own = self.credentials.check_own(request, welcome.chain, make_verifier(welcome.bundle))
        self.trust.begin_again(welcome.bundle)
        self.credentials.begin_again(own)
        self.acknowledge(welcome)
        self._ask_again()

    def _ask_again(self) -> None:
        for question in self.policies.subscriptions():
            self._send(question)
        self.directory.confirm_all()
        self.recorder.reconnect()

    def acknowledge(self, welcome: Welcome) -> None:
        """Acknowledge what the first welcome brought."""
        self._send(BundleInstalled(sequence=welcome.bundle.sequence))
        self._take_foreign(welcome)
        self._install_namespace(welcome.state)

    def _take_foreign(self, welcome: Welcome) -> None:
        # A CA of protocol 1, which tells no version, knows nothing of other trust domains: what is known stays.
        if welcome.ca_version:
            self._install_foreign(welcome.foreign)

    def _install_foreign(self, domains: tuple[ForeignDomain, ...]) -> None:
        self.foreign.install(domains, own=self.trust.bundle.trust_domain)

    def _install_bundle(self, bundle: TrustBundle) -> None:
        self.trust.install(bundle)
        self._send(BundleInstalled(sequence=self.trust.sequence))

    def _install_namespace(self, state: NamespaceState) -> None:
        self.policies.install(state, acknowledge=self._send)

    def _send(self, message: FromSidecar) -> None:
        try:
            self.uplink.send(message)
        except UnavailableError:
            return  # The stream is gone again: the next welcome repeats all of this.
