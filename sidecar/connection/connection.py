"""Live connections: what one is while it lives, and the one record that it leaves.

Belongs here: ``Connection``, the one object that owns a connection's parties, counters, verdict and record, recorded
exactly once on every exit path; the registry that decides again when something changes. Doesn't: the order of steps
(``sidecar/outbound.py``, ``sidecar/inbound.py``), byte moving (``sidecar/pump/tunnel_pump.py``).
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from shared.model.errors import VerificationError
from shared.model.identity.foreign import ForeignIdentity
from shared.model.identity.identity import Identity
from shared.model.identity.program import format_program
from shared.model.policy.decision import Answer, DecisionRecord, Ending, PartyRecord, Phase, ProcessRecord, Transport
from shared.model.policy.evaluate import NamespacePolicy, Party, Verdict, evaluate
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction
from shared.model.trust.certificate import VerifiedPeer
from shared.model.trust.foreign_certificate import ForeignPeer
from shared.model.wire.messages import LiveConnection
from sidecar.pump.plain_pump import PlainPump
from sidecar.pump.tunnel_pump import PumpEnd, TunnelPump
from sidecar.sockets.address import Endpoint, format_endpoint, parse_ip
from sidecar.sockets.ending import reset
from sidecar.tunnel.frames import CONNECTION_ID_BYTES

if TYPE_CHECKING:
    from sidecar.attest.facts import Attestation, ProcessFacts
    from sidecar.parts import Sidecar
    from sidecar.pump.tls_pump import TlsPump

_NO_PROCESS: Final = ProcessRecord()
# The CA retires an authority by its own clock, as soon as nothing that it signed is valid.
_CLOCKS_APART_S: Final = 60.0
_LINGERING: Final = frozenset({Ending.FINISHED})


class Refused(Exception):
    """This connection may not be, or can't be: what the application sees is a reset.

    Arguments:
        reason: what the record says.
        detail: for people; empty when the reason says it all.
    """

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(detail or reason.value)
        self.reason = reason
        self.detail = detail


class Connection:
    """One application connection on this side; a context manager that registers, and records exactly once.

    Attributes:
        source, destination: the parties as far as they are proven now.
        verdict: the latest decision; None before the first.
        application: the application's socket on this side, once there is one; closed at the latest on exit.
    """

    __slots__ = (
        "_is_recorded",
        "_pump",
        "_registry",
        "_sidecar",
        "_started",
        "application",
        "attestation",
        "destination",
        "destination_endpoint",
        "destination_identity",
        "detail",
        "direction",
        "ending",
        "id",
        "is_revoked",
        "issuer",
        "peer",
        "port",
        "process",
        "refusal",
        "since",
        "source",
        "source_endpoint",
        "source_identity",
        "transport",
        "tunnel",
        "verdict",
    )

    def __init__(
        self,
        sidecar: Sidecar,
        direction: Direction,
        *,
        source: Endpoint,
        destination: Endpoint,
        connection_id: str = "",
        application: socket.socket | None = None,
    ) -> None:
        self._sidecar = sidecar
        self._registry = sidecar.connections
        self._started = time.monotonic()
        self.since = time.time()
        self.direction = direction
        self.id = connection_id or os.urandom(CONNECTION_ID_BYTES).hex()
        self.source_endpoint = source
        self.destination_endpoint = destination
        self.port = destination[1]
        self.source = Party(address=parse_ip(source[0]))
        self.destination = Party(address=parse_ip(destination[0]))
        self.source_identity: Identity | ForeignIdentity | None = None
        self.destination_identity: Identity | ForeignIdentity | None = None
        self.application = application
        self.attestation: Attestation | None = None
        self.process: ProcessRecord = _NO_PROCESS
        self.verdict: Verdict | None = None
        self.refusal: Reason | None = None
        self.detail = ""
        self.peer: VerifiedPeer | ForeignPeer | None = None
        self.issuer = ""
        self.transport = Transport.NONE
        self.tunnel = ""
        self.ending = Ending.NONE
        self.is_revoked = False
        self._pump: TunnelPump | PlainPump | TlsPump | None = None
        self._is_recorded = False

    # ---- deciding -------------------------------------------------------------------------------------------------

    def decide(self) -> Verdict:
        """Decide with what is known of both parties now, against the policies of now.

        Raises:
            Refused: the answer is no.
        """
        verdict = self.verdict = self._evaluate()
        if not verdict.allowed:
            raise Refused(verdict.reason)
        return verdict

    def decide_again(self) -> None:
        """Something changed: close this connection if the answer is now no. Never raises, never waits."""
        if self.verdict is None or self.ending is not Ending.NONE or self.is_revoked:
            return
        before, self.verdict = self.verdict, self._evaluate()
        if not self.verdict.allowed:
            self.revoke(self.verdict.reason)
        elif self.refusal is not None:
            self.verdict = before

    def check_peer_again(self) -> None:
        """The trust bundle, or foreign roots, changed: close this connection if its peer doesn't hold against it.

        What this does *not* verify: the certificate's end. Age ends a tunnel's reuse, not a live connection; so that
        an authority that retired, once nothing of it was valid any more, ends none either, unless it is distrusted.
        """
        peer, bundle = self.peer, self._sidecar.trust
        if peer is None:
            return
        now = time.time()
        try:
            if isinstance(peer, ForeignPeer):
                self.peer = self._sidecar.foreign.verify_again(peer, now=min(now, peer.not_after - 1))
            elif peer.bundle_sequence == bundle.bundle.sequence:
                return
            elif now >= peer.not_after - _CLOCKS_APART_S:
                bundle.verifier.check_not_distrusted(peer.chain)
            else:
                self.peer = bundle.verifier.verify_peer(peer.chain, now=now)
        except VerificationError as error:
            self.revoke(Reason(error.reason), error.message)

    def revoke(self, reason: Reason, detail: str = "", ending: Ending = Ending.POLICY_CHANGED) -> None:
        """Close this connection, whatever step it is at; the story notices at its next one."""
        if self.is_revoked or self.ending is not Ending.NONE:
            return
        self.is_revoked = True
        self.refusal = reason
        self.detail = detail
        self.ending = ending
        if self._pump is not None:
            self._pump.abort(ending)

    def check_not_revoked(self) -> None:
        """Called after every wait between a decision and the first byte.

        Raises:
            Refused: the connection was revoked meanwhile.
        """
        if self.is_revoked:
            raise Refused(self.refusal or Reason.NO_RULE, self.detail)

    def _evaluate(self) -> Verdict:
        source, destination, is_egress = self.source, self.destination, self.direction is Direction.EGRESS
        return _evaluate(
            self.direction,
            source,
            destination,
            self.port,
            self._policy_of(source, is_own=is_egress),
            self._policy_of(destination, is_own=not is_egress),
        )

    def _policy_of(self, party: Party, *, is_own: bool) -> NamespacePolicy | None:
        if is_own:
            return self._sidecar.policies.own
        workload = party.workload or party.listed
        return None if workload is None else self._sidecar.policies.get(workload.namespace)

    # ---- what becomes known ---------------------------------------------------------------------------------------

    def note_process(self, process: ProcessFacts | None, digest: str = "") -> None:
        """Remember the local process for the record."""
        if process is not None:
            self.process = ProcessRecord(pid=process.pid, uid=process.uid, path=process.path, digest=digest)

    def note_attestation(self, attestation: Attestation) -> None:
        """Remember who opened or serves this connection."""
        self.attestation = attestation
        self.note_process(attestation.process, attestation.program.digest)
        self._registry.watch_holders(self)

    def note_pump(self, pump: TunnelPump | PlainPump | TlsPump, transport: Transport) -> None:
        """Bytes may flow now; the pump counts them."""
        self._pump = pump
        self.transport = transport

    def note_end(self, end: PumpEnd) -> None:
        """Remember how pumping ended."""
        if self.ending is Ending.NONE:
            self.ending = end.ending
            self.detail = end.detail or self.detail
            if end.refusal is not None:
                self.refusal = end.refusal

    # ---- the record -----------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._registry.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if isinstance(error, Refused):
            if self.refusal is None:
                # What attestation said is what a person needs to read when the refusal has nothing to add.
                self.refusal, self.detail = error.reason, error.detail or self.detail
            if self.ending is Ending.NONE:
                self.ending = Ending.REFUSED
        elif isinstance(error, asyncio.CancelledError):
            self._set_failure(Ending.SHUTDOWN, "")
        elif error is not None:
            # A fault of ours: refused, recorded, and raised on to the guarded task.
            self._set_failure(Ending.REFUSED, f"{type(error).__name__}: {error}")
            if self.refusal is None:
                self.refusal = Reason.PROTOCOL_ERROR
        elif self.ending is Ending.NONE:
            self.ending = Ending.PEER_LOST
        if self._pump is not None and not self._pump.finished.done():
            self._pump.abort(self.ending)
        if self.application is not None and self.application.fileno() >= 0:
            if self.ending in _LINGERING:
                self.application.close()
            else:
                reset(self.application)
        self._registry.remove(self)
        self._record_end()
        return isinstance(error, Refused)

    def _set_failure(self, ending: Ending, detail: str) -> None:
        if self.ending is Ending.NONE:
            self.ending = ending
        if not self.detail:
            self.detail = detail

    def record_start(self) -> None:
        """Write the record of a connection that lives long."""
        if self.verdict is not None and self.ending is Ending.NONE:
            self._sidecar.recorder.record(self._make_record(Phase.START, Ending.NONE))

    def forget(self) -> None:
        """Leave no record: the initiator was told that nothing was processed, and its retry has one."""
        self._is_recorded = True
        self.ending = Ending.REFUSED

    def _record_end(self) -> None:
        if not self._is_recorded:
            self._is_recorded = True
            self._sidecar.recorder.record(self._make_record(Phase.END, self.ending))

    def _make_record(self, phase: Phase, ending: Ending) -> DecisionRecord:
        verdict, policies = self.verdict, self._sidecar.policies
        own = policies.own.state
        is_denied = self.refusal is not None or verdict is None or not verdict.allowed
        pump = self._pump
        if self.refusal is not None:
            reason = self.refusal
        elif verdict is not None:
            reason = verdict.reason
        else:
            reason = Reason.DEADLINE_EXCEEDED if ending is not Ending.SHUTDOWN else Reason.OVERLOADED
        return DecisionRecord(
            time=time.time(),
            namespace=own.namespace,
            sidecar=self._sidecar.instance,
            phase=phase,
            direction=self.direction,
            answer=Answer.DENY if is_denied else Answer.ALLOW,
            would_deny=False if is_denied or verdict is None else verdict.would_deny,
            reason=reason,
            rule="" if verdict is None or reason is not verdict.reason else verdict.rule,
            policy_version=own.version if verdict is None else verdict.policy_version,
            mode=own.mode if verdict is None else verdict.mode,
            weak=False if verdict is None else verdict.weak,
            source=self._party_record(
                self.source, self.source_endpoint, self.source_identity, is_own=self.direction is Direction.EGRESS
            ),
            destination=self._party_record(
                self.destination,
                self.destination_endpoint,
                self.destination_identity,
                is_own=self.direction is Direction.INGRESS,
            ),
            process=self.process,
            port=self.port,
            transport=self.transport,
            tunnel=self.tunnel,
            connection=self.id,
            issuer=self.issuer,
            bytes_sent=0 if pump is None else pump.sent,
            bytes_received=0 if pump is None else pump.received,
            duration_s=round(time.monotonic() - self._started, 6),
            ending=ending,
            detail=self.detail[:500],
        )

    def _party_record(
        self, party: Party, endpoint: Endpoint, identity: Identity | ForeignIdentity | None, *, is_own: bool
    ) -> PartyRecord:
        policy = self._policy_of(party, is_own=is_own)
        approved = (
            policy is not None
            and party.workload is not None
            and party.program is not None
            and policy.find_approval(party.workload, party.program) is not None
        )
        why = party.why_unidentified
        if why is None and party.program is None and party.foreign is None and not party.is_pending:
            why = Reason.PEER_UNIDENTIFIED
        return PartyRecord(
            address=format_endpoint(endpoint),
            workload=str(party.workload) if party.workload else "",
            listed=str(party.listed) if party.listed else "",
            program=format_program(party.program) if party.program else "",
            identity=str(identity) if identity else "",
            approved=approved,
            why=why.value if why and party.program is None else "",
        )

    def describe(self) -> LiveConnection:
        """Describe this connection for ``touchmark connections``."""
        verdict, pump = self.verdict, self._pump
        source, destination = self.source, self.destination
        return LiveConnection(
            connection=self.id,
            tunnel=self.tunnel,
            direction=self.direction.value,
            source=format_endpoint(self.source_endpoint),
            destination=format_endpoint(self.destination_endpoint),
            source_workload=str(source.workload or source.foreign or source.listed or ""),
            destination_workload=str(destination.workload or destination.foreign or destination.listed or ""),
            source_program=format_program(source.program) if source.program else "",
            destination_program=format_program(destination.program) if destination.program else "",
            transport=self.transport.value,
            would_deny=verdict.would_deny if verdict else False,
            reason=verdict.reason.value if verdict else "",
            since=self.since,
            bytes_sent=0 if pump is None else pump.sent,
            bytes_received=0 if pump is None else pump.received,
            process=f"{self.process.pid} {self.process.path}" if self.process.pid else "",
        )


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
        _evaluate.cache_clear()  # It would be right still, but keep the old policies in memory.
        for connection in self:
            connection.decide_again()

    def check_peers_again(self) -> None:
        """The trust bundle, or foreign roots, changed: check every live connection's peer against it."""
        for connection in self:
            connection.check_peer_again()

    def close_all(self, ending: Ending = Ending.SHUTDOWN) -> None:
        """Close every live connection: this sidecar stops."""
        for connection in self:
            connection.ending = ending if connection.ending is Ending.NONE else connection.ending
            if connection._pump is not None:
                connection._pump.abort(ending)

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
        return tuple(connection.describe() for connection in live[:limit]), len(live) > limit


@lru_cache(maxsize=1024)
def _evaluate(
    direction: Direction,
    source: Party,
    destination: Party,
    port: int,
    source_policy: NamespacePolicy | None,
    destination_policy: NamespacePolicy | None,
) -> Verdict:
    """Evaluate, or remember: the answer depends on nothing but these values, and a changed policy is another object."""
    return evaluate(
        direction=direction,
        source=source,
        destination=destination,
        port=port,
        source_policy=source_policy,
        destination_policy=destination_policy,
    )
