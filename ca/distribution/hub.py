"""All open sessions, and the pushes to those whom a change concerns. No I/O: messages go to outboxes.

A message is encoded once for all its receivers that speak the same protocol.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from ca.distribution.directory import Directory
from ca.distribution.session import Session
from ca.metrics import Metrics
from shared.model.identity.foreign import ForeignDomain
from shared.model.policy.rules import Mode, NamespaceState
from shared.model.trust.bundle import TrustBundle
from shared.model.wire.messages import (
    BundleChanged,
    ForeignTrustChanged,
    FromCA,
    NamespaceChanged,
    Reissue,
    encode_message,
    express_in,
    told_mode,
)

REPLACED = "replaced"
EVICTED = "evicted"
# Each sidecar renews a handful of credentials; the spread keeps the CA below a tenth of what it can sign.
_SPREAD_BY_SIDECAR_S: Final = 0.05
_LEAST_SPREAD_S: Final = 1.0
_MAX_SPREAD_S: Final = 300.0


class Hub:
    """The open sessions by instance, with an index by namespace."""

    def __init__(self, *, directory: Directory, metrics: Metrics) -> None:
        self.directory = directory
        self._metrics = metrics
        self._sessions: dict[str, Session] = {}
        self._by_namespace: dict[str, set[Session]] = {}
        self._watchers: dict[str, set[Session]] = {}
        self._watching_all: set[Session] = set()

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._sessions.values()))

    def get(self, instance: str) -> Session | None:
        """Return the instance's open session."""
        return self._sessions.get(instance)

    def open(self, session: Session) -> None:
        """Take a session in; an older stream of the same instance ends (its TCP may be long dead)."""
        older = self._sessions.get(session.instance)
        if older is not None:
            self.close(older)
            older.end(REPLACED)
        self._sessions[session.instance] = session
        self._metrics.streams.set(len(self._sessions))

    def close(self, session: Session) -> bool:
        """Forget a session. Returns whether it was still the instance's current one."""
        for namespace in session.namespaces:
            self._drop(self._by_namespace, namespace, session)
        for address in session.addresses:
            self._drop(self._watchers, address, session)
        self._watching_all.discard(session)
        is_current = self._sessions.get(session.instance) is session
        if is_current:
            del self._sessions[session.instance]
        for report in session.reports.values():
            report.cancel()
        session.reports.clear()
        self._metrics.streams.set(len(self._sessions))
        return is_current

    def subscribe(self, session: Session, namespace: str) -> None:
        """Send the session every later state of the namespace.

        Raises:
            RefusedError: it subscribed to too many.
        """
        session.add_namespace(namespace)
        self._by_namespace.setdefault(namespace, set()).add(session)

    def watch(self, session: Session, address: str) -> None:
        """Answer with the address's entry, and again whenever it changes."""
        if not session.watches_all:
            dropped = session.add_address(address)
            for known in dropped:
                self._drop(self._watchers, known, session)
            if dropped:
                self._watching_all.add(session)
            else:
                self._watchers.setdefault(address, set()).add(session)
        session.send(self.directory.get(address), key=("address", address))

    def subscribers(self, namespace: str) -> frozenset[Session]:
        """Return the sessions that get this namespace's state."""
        return frozenset(self._by_namespace.get(namespace, ()))

    def publish_namespace(self, state: NamespaceState) -> None:
        """Push a namespace's new state to its subscribers."""
        behind = [s for s in self.subscribers(state.namespace) if s.is_newer(state.namespace, state.version)]
        self._push(behind, NamespaceChanged(state=state), key=("namespace", state.namespace))

    def send_state(self, session: Session, state: NamespaceState) -> None:
        """Send one session a namespace's state, unless it has a newer one: the caller's may have been read before."""
        if session.is_newer(state.namespace, state.version):
            session.send(NamespaceChanged(state=state), key=("namespace", state.namespace))

    def publish_bundle(self, bundle: TrustBundle) -> None:
        """Push the trust bundle to everybody."""
        self._metrics.bundle_sequence.set(bundle.sequence)
        self._push(list(self), BundleChanged(bundle=bundle), key=("bundle", ""))

    def publish_foreign_trust(self, domains: tuple[ForeignDomain, ...]) -> None:
        """Push the other trust domains to everybody."""
        self._push(list(self), ForeignTrustChanged(domains=domains), key=("foreign", ""))

    def publish_reissue(self) -> None:
        """Have every sidecar renew: another authority signs now."""
        self._push(list(self), self._make_reissue(), key=("reissue", ""))

    def send_reissue(self, session: Session) -> None:
        """Have one sidecar renew: its certificate is of an authority that no longer signs."""
        session.send(self._make_reissue(), key=("reissue", ""))

    def _make_reissue(self) -> Reissue:
        return Reissue(spread_s=min(_MAX_SPREAD_S, max(_LEAST_SPREAD_S, len(self) * _SPREAD_BY_SIDECAR_S)))

    def publish_addresses(self, addresses: Iterable[str]) -> None:
        """Push the present entries of these addresses to those who watch them."""
        for address in addresses:
            watchers = self._watchers.get(address, set()) | self._watching_all
            if watchers:
                self._push(watchers, self.directory.get(address), key=("address", address))

    def end_evicted(self, instances: Iterable[str]) -> None:
        """End the streams of evicted sidecars; what waits for them isn't sent."""
        for instance in instances:
            session = self._sessions.get(instance)
            if session is not None:
                self.close(session)
                session.end(EVICTED)

    def end_all(self, why: str) -> None:
        """Ask every stream to end."""
        for session in self:
            session.end(why)

    def _push(self, sessions: Iterable[Session], message: FromCA, *, key: tuple[str, str]) -> None:
        encoded: dict[tuple[int, Mode | None], bytes | None] = {}
        pushes = self._metrics.pushes.labels(kind=key[0])
        for session in sessions:
            protocol = session.protocol
            variant = protocol, told_mode(protocol, message, session.workload)
            if variant not in encoded:
                known = express_in(protocol, message, reader=session.workload)
                encoded[variant] = None if known is None else encode_message(known)
            if (data := encoded[variant]) is not None:
                session.send_encoded(data, key=key)
                pushes.inc()

    @staticmethod
    def _drop(index: dict[str, set[Session]], name: str, session: Session) -> None:
        members = index.get(name)
        if members is not None:
            members.discard(session)
            if not members:
                del index[name]
