"""One application connection's lifecycle: registered before its first decision, decided, decided again, recorded once.

Belongs here: ``Connection``, which owns the verdict, the ending and the one record on every exit path. Doesn't: what is
known of its ends (``parties.py``), what a record says (``describe.py``), all live connections (``registry.py``), the
order of steps (``sidecar/outbound.py``, ``sidecar/inbound.py``), moving bytes (``sidecar/pump/``). Longer than most: a
third of it says what a connection needs of its sidecar.
"""

from __future__ import annotations

import asyncio
import math
import os
import socket
import time
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol, Self

from shared.model.errors import VerificationError
from shared.model.policy.decision import DecisionRecord, Ending, Phase, Transport
from shared.model.policy.evaluate import Verdict
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction, Mode
from shared.model.trust.certificate import VerifiedPeer
from shared.model.trust.foreign_certificate import ForeignPeer
from sidecar.attest.facts import AttestationError
from sidecar.attest.program_look import MAX_AGE_S
from sidecar.connection.describe import RefusedAttempt, make_record
from sidecar.connection.parties import Parties, PolicySource
from sidecar.connection.requirements import check_origin
from sidecar.sockets.address import Endpoint
from sidecar.sockets.ending import count_untaken, reset
from sidecar.tunnel.frames import CONNECTION_ID_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.model.identity.loaded_code import LoadedCode
    from sidecar.attest.facts import Attestation, Execution
    from sidecar.mesh.foreign_trust import ForeignRoots
    from sidecar.mesh.trust import Trust
    from sidecar.native._loop import Proof
    from sidecar.pump.ends import Finished, PumpEnd
    from sidecar.pump.guard import Guard

# The CA retires an authority by its own clock, as soon as nothing that it signed is valid.
_CLOCKS_APART_S: Final = 60.0
# What couldn't be looked at, which permissive mode lets pass.
_NOT_CHECKED: Final = frozenset({Reason.HOLDERS_UNKNOWN, Reason.OVERLOADED})
# Not made anew for each connection: an empty set takes as much as all that is known of its two ends.
_NOTHING_UNPROVEN: Final[frozenset[str]] = frozenset()
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


class Recorder(Protocol):
    """Takes decision records."""

    def record(self, record: DecisionRecord) -> None:
        """Take a record; never blocks."""


class Registry(Protocol):
    """Knows the live connections."""

    def add(self, connection: Connection) -> None:
        """A connection begins."""

    def remove(self, connection: Connection) -> None:
        """It has ended."""

    def watch(self, connection: Connection) -> None:
        """The program on this side was attested: it is looked at again while the connection lives."""

    def check_soon(self, connection: Connection) -> None:
        """Have the holders of its socket looked for in the next pass."""


class Code(Protocol):
    """Knows what programs have loaded."""

    def tell(self, attestation: Attestation) -> LoadedCode | None:
        """Return it, if it is this record's turn to say so; never waits."""


class ProofFinder(Protocol):
    """Knows what a mover's thread looks at."""

    def find_proof(self, execution: Execution) -> Proof:
        """Return it, or raise a ``LookupError``."""


class Looker(Protocol):
    """Looks at attested programs again."""

    @property
    def looks(self) -> ProofFinder:
        """What a mover's thread looks at instead."""

    def look_at(self, attestation: Attestation) -> float:
        """Return up to when it counts that the program is the attested one; an ``AttestationError`` when it isn't."""

    def has_let_go(self, attestation: Attestation) -> bool:
        """Tell whether the attested process doesn't have the socket any more, since it executed another program."""


class Carrier(Protocol):
    """What a connection needs of its sidecar: what decides about it, and where it is registered and recorded."""

    @property
    def instance(self) -> str:
        """The sidecar's name in records."""

    @property
    def policies(self) -> PolicySource:
        """The policies in force."""

    @property
    def trust(self) -> Trust:
        """The trust bundle in force."""

    @property
    def foreign(self) -> ForeignRoots:
        """The roots of other trust domains in force."""

    @property
    def attestor(self) -> Looker:
        """Looks at programs again."""

    @property
    def recorder(self) -> Recorder:
        """Where records go."""

    @property
    def code(self) -> Code:
        """What programs have loaded."""

    @property
    def connections(self) -> Registry:
        """The live connections."""


class Pump(Protocol):
    """What moves a connection's bytes."""

    @property
    def finished(self) -> Finished:
        """Done when nothing more will be moved."""

    @property
    def sent(self) -> int:
        """Bytes from the source to the destination as this side counts them."""

    @property
    def received(self) -> int:
        """The other way."""

    @property
    def peer(self) -> VerifiedPeer | None:
        """Who the other end has proven to be since the connection began; None where it proves nothing later."""

    def abort(self, ending: Ending, reason: Reason | None = None) -> None:
        """Stop; the other side is told the reason where it can be."""

    def guard_by(self, guard: Guard) -> None:
        """Ask this guard before bytes are forwarded."""


class Connection:
    """One application connection on this side; a context manager that registers, and records exactly once.

    Arguments:
        connection_id: of the initiator's; empty: a new one.

    Attributes:
        parties: what is known of both ends.
        verdict: the latest decision; None before the first.
        refusal: why it was refused, where that isn't the verdict's reason.
        application: the application's socket on this side, once there is one; closed at the latest on exit.
        fresh_until: up to when (``time.monotonic``) bytes may pass without another look at the local program.
        on_search: called with each search for its socket's holders, while it isn't known who has accepted it.
        is_orphaned: the attested process has ended: others may hold its socket.
        unproven: why its program isn't proven any more, where it goes on all the same.
        refused_in_explicit: the first of these reasons for which explicit mode would have closed it.
        since: seconds since the epoch.
    """

    __slots__ = (
        "_carrier",
        "_has_started",
        "_is_recorded",
        "_moved",
        "_moved_at",
        "_pump",
        "_received_later",
        "_sent_later",
        "_started",
        "application",
        "detail",
        "ending",
        "fresh_until",
        "id",
        "is_orphaned",
        "is_revoked",
        "on_search",
        "parties",
        "refusal",
        "refused_in_explicit",
        "since",
        "transport",
        "tunnel",
        "unproven",
        "verdict",
    )

    def __init__(
        self,
        carrier: Carrier,
        direction: Direction,
        *,
        source: Endpoint,
        destination: Endpoint,
        connection_id: str = "",
        application: socket.socket | None = None,
    ) -> None:
        self._carrier = carrier
        self._started = time.monotonic()
        self.since = time.time()
        self.id = connection_id or _draw_id()
        self.parties = Parties(direction, source=source, destination=destination)
        self.application = application
        self.verdict: Verdict | None = None
        self.refusal: Reason | None = None
        self.detail = ""
        self.transport = Transport.NONE
        self.tunnel = ""
        self.ending = Ending.NONE
        self.is_revoked = False
        self.is_orphaned = False
        self.fresh_until = math.inf
        self.on_search: Callable[[], None] | None = None
        self.unproven = _NOTHING_UNPROVEN
        self.refused_in_explicit: Reason | None = None
        self._pump: Pump | None = None
        self._moved = -1  # As of the last look, and when that was new.
        self._moved_at = self._started
        self._sent_later = 0
        self._received_later = 0
        self._has_started = False
        self._is_recorded = False

    @property
    def bytes_sent(self) -> int:
        """Bytes from source to destination."""
        return 0 if self._pump is None else max(0, self._pump.sent + self._sent_later)

    @property
    def bytes_received(self) -> int:
        """Bytes from destination to source."""
        return 0 if self._pump is None else max(0, self._pump.received + self._received_later)

    # ---- deciding -------------------------------------------------------------------------------------------------

    def decide(self) -> Verdict:
        """Decide with what is known of both parties, against the current policies.

        Raises:
            Refused: the answer is no.
        """
        verdict = self.verdict = self.parties.evaluate(self._carrier.policies)
        if not verdict.allowed:
            raise Refused(verdict.reason)
        return verdict

    def decide_again(self) -> None:
        """Something changed: close this connection if the answer is now no. Never raises, never waits."""
        if self.verdict is None or self.ending is not Ending.NONE or self.is_revoked:
            return
        attestation = self.parties.attestation
        if attestation is not None:
            try:
                check_origin(self._carrier.policies.own, attestation)
            except AttestationError as error:
                self.revoke(error.reason, error.message)
                return
        before, self.verdict = self.verdict, self.parties.evaluate(self._carrier.policies)
        if not self.verdict.allowed:
            self.revoke(self.verdict.reason)
        elif self.refusal is not None:
            self.verdict = before

    def check_peer_again(self) -> None:
        """The trust bundle, or foreign roots, changed: close this connection if its peer doesn't hold against it.

        What this does *not* verify: the certificate's end. Age ends a tunnel's reuse, not a live connection; so that
        an authority that retired, once nothing of it was valid any more, ends none either, unless it is distrusted.
        """
        peer, trust = self.parties.peer, self._carrier.trust
        renewed = None if self._pump is None else self._pump.peer
        if renewed is not None and isinstance(peer, VerifiedPeer) and renewed.serial != peer.serial:
            self.parties.note_peer(renewed)
            peer = renewed
        if peer is None:
            return
        now = time.time()
        try:
            if isinstance(peer, ForeignPeer):
                self.parties.peer = self._carrier.foreign.verify_again(peer, now=min(now, peer.not_after - 1))
            elif peer.bundle_sequence == trust.bundle.sequence:
                return
            elif now >= peer.not_after - _CLOCKS_APART_S:
                trust.verifier.check_not_distrusted(peer.chain)
            else:
                self.parties.peer = trust.verifier.verify_peer(peer.chain, now=now)
        except VerificationError as error:
            self.revoke(Reason(error.reason), error.message)

    def revoke(self, reason: Reason, detail: str = "") -> None:
        """Close this connection, whatever step it is at; the story notices at its next one."""
        if self.is_revoked or self.ending is not Ending.NONE:
            return
        self.is_revoked = True
        self.refusal = reason
        self.detail = detail
        self.abort(Ending.POLICY_CHANGED, reason)

    def lose_claim(self, error: AttestationError) -> None:
        """Close this connection because another one claims to be that of the same socket."""
        self.revoke(error.reason, error.message)

    def lose_proof(self, reason: Reason, detail: str) -> None:
        """Close this connection because its program isn't proven any more, if it is closed for that.

        Explicit mode closes it whatever the reason. Permissive mode lets what can't be looked at go on, and servers
        whose listener another program holds as well: supervisors that open the listener are common.
        """
        is_client = self.parties.direction is Direction.EGRESS
        is_explicit = self._carrier.policies.mode is Mode.EXPLICIT
        if is_explicit or (is_client and reason not in _NOT_CHECKED):
            self.revoke(reason, detail)
        else:
            self.note_unproven(reason, detail)

    def note_unproven(self, reason: Reason, detail: str) -> None:
        """Have the record say that explicit mode would have closed this connection, which goes on."""
        if self.refused_in_explicit is None or self.refused_in_explicit in _NOT_CHECKED:
            self.refused_in_explicit = reason
            self.detail = self.detail or detail

    def note_cleared(self) -> None:
        """A complete search has found no other holder: that earlier ones couldn't be completed doesn't count any more.

        They tell of the machine's load at that time, which is no reason to say of this program, or of who it talks to,
        that explicit mode would refuse it. What was found, such as another holder, stays in the record.
        """
        if self.refused_in_explicit in _NOT_CHECKED:
            self.refused_in_explicit = None

    def look_again(self) -> bool:
        """See that the local program is still the attested one, before bytes are forwarded; false when this closed it.

        A process that has ended changes nothing more; who else holds its socket is looked for more often then.
        """
        attestation = self.parties.attestation
        if attestation is None:
            self.fresh_until = math.inf
            return True
        try:
            self.fresh_until = self._carrier.attestor.look_at(attestation)
        except AttestationError as error:
            if is_without(self._carrier.attestor, attestation, error):
                self.be_orphaned()
            else:
                self.fresh_until = time.monotonic() + MAX_AGE_S
                self.lose_proof(error.reason, error.message)
        return not self.is_revoked

    def find_proof(self) -> Proof | None:
        """Return what a mover's thread looks at in place of ``look_again``.

        Raises:
            LookupError: it couldn't.
        """
        attestation = self.parties.attestation
        if attestation is None or self.fresh_until == math.inf:
            return None
        return self._carrier.attestor.looks.find_proof(attestation.execution)

    def be_orphaned(self) -> None:
        """The attested process has ended, or let the socket go: the next search for holders says who goes on."""
        if not self.is_orphaned:
            self.is_orphaned, self.fresh_until = True, math.inf
            self._carrier.connections.check_soon(self)

    def check_not_revoked(self) -> None:
        """Called after every wait between a decision and the first byte, which passes on a fresh look at the program.

        Raises:
            Refused: the connection was revoked, or this sidecar stops.
        """
        if time.monotonic() > self.fresh_until:
            self.look_again()
        if self.is_revoked:
            raise Refused(self.refusal or Reason.NO_RULE, self.detail)
        if self.ending is Ending.SHUTDOWN:
            raise Refused(Reason.SHUTTING_DOWN)

    def abort(self, ending: Ending, reason: Reason | None = None) -> None:
        """End this connection now, whatever step it is at; one that has an ending keeps it."""
        if self.ending is Ending.NONE:
            self.ending = ending
        if self._pump is not None:
            self._pump.abort(ending, reason)

    def end_if_overdue(self, now: float, *, idle_s: float, max_s: float) -> None:
        """End this connection if no byte has passed for ``idle_s``, or it lives for ``max_s``; 0: never."""
        if self._pump is None or self.ending is not Ending.NONE:
            return
        moved = self._pump.sent + self._pump.received
        if moved != self._moved:
            self._moved, self._moved_at = moved, now
        if max_s and now - self._started >= max_s:
            self.detail = f"it has lived for {max_s:g} s (limits.maxDurationSeconds)"
        elif idle_s and now - self._moved_at >= idle_s:
            self.detail = f"no byte has passed for {idle_s:g} s (limits.idleTimeoutSeconds)"
        else:
            return
        self.abort(Ending.TIMED_OUT)

    # ---- what becomes known ---------------------------------------------------------------------------------------

    def note_attestation(self, attestation: Attestation) -> None:
        """Remember which program opened this connection."""
        self.parties.note_attestation(attestation)
        self.fresh_until = time.monotonic() + MAX_AGE_S
        if self._pump is not None:
            self._pump.guard_by(self)
        self.watch_program()

    def watch_program(self) -> None:
        """Have the attested program on this side looked at again while the connection lives."""
        if self.fresh_until == math.inf and not self.is_orphaned and self.parties.attestation is not None:
            # A listener's, until it is known who accepts: it is looked at before the first byte as well.
            self.fresh_until = time.monotonic() + MAX_AGE_S
            if self._pump is not None:
                self._pump.guard_by(self)
        self._carrier.connections.watch(self)

    def note_pump(self, pump: Pump, transport: Transport) -> None:
        """Bytes may flow now; the pump counts them.

        Raises:
            Refused: the connection was revoked, or this sidecar stops.
        """
        self.check_not_revoked()
        self._pump = pump
        pump.guard_by(self)
        self.transport = transport

    def note_end(self, end: PumpEnd) -> None:
        """Remember how pumping ended."""
        if self.ending is Ending.NONE:
            self.ending = end.ending
            self.detail = end.detail or self.detail
            if (reason := end.refusal or end.revoked) is not None:
                self.refusal = reason

    def note_delivery(self, count: int, *, to_application: bool) -> None:
        """Count what was still delivered after pumping had ended; below zero where less arrived than was counted."""
        is_source = self.parties.direction is Direction.EGRESS or self.transport is Transport.PLAINTEXT
        if is_source is to_application:
            self._received_later += count
        else:
            self._sent_later += count

    # ---- begin and end --------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._carrier.connections.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._settle(error)
        if self._pump is not None and not self._pump.finished.done():
            self._pump.abort(self.ending)
        if self.application is not None and self.application.fileno() >= 0:
            if self.ending in _LINGERING:
                self.application.close()
            else:
                self.note_delivery(-count_untaken(self.application), to_application=True)
                reset(self.application)
        self._carrier.connections.remove(self)
        if not self._is_recorded:
            self._is_recorded = True
            self._record(Phase.END, self.ending)
        self._let_go()
        return isinstance(error, Refused)

    def _let_go(self) -> None:
        """Keep nothing alive that lasts: the pump knows this connection, and an attestation has two descriptors."""
        self._pump = self.on_search = None
        self.parties.attestation = None

    def _settle(self, error: BaseException | None) -> None:
        """Say how the connection ended, by what its story raised, where that isn't said yet."""
        if isinstance(error, Refused):
            if self.refusal is None:
                # What attestation said is what a person needs to read when the refusal has nothing to add.
                self.refusal, self.detail = error.reason, error.detail or self.detail
            ending = Ending.REFUSED
        elif isinstance(error, asyncio.CancelledError):
            ending = Ending.SHUTDOWN
        elif error is not None:
            # A fault of ours: refused, recorded, and raised on to the guarded task.
            self.refusal = self.refusal or Reason.INTERNAL_ERROR
            self.detail = self.detail or f"{type(error).__name__}: {error}"
            ending = Ending.REFUSED
        else:
            ending = Ending.PEER_LOST
        if self.ending is Ending.NONE:
            self.ending = ending

    def record_start(self) -> None:
        """Write the record of a connection that lives long."""
        if self.verdict is not None and self.ending is Ending.NONE:
            self._record(Phase.START, Ending.NONE)
            self._has_started = True

    def forget(self) -> None:
        """Leave no record: the initiator was told that nothing was processed, and its retry has one."""
        self._is_recorded = True
        self.ending = Ending.REFUSED

    def _record(self, phase: Phase, ending: Ending) -> None:
        carrier, attestation = self._carrier, self.parties.attestation
        if attestation is not None and (code := carrier.code.tell(attestation)) is not None:
            self.parties.note_code(code)
        carrier.recorder.record(
            make_record(
                self,
                carrier.policies,
                sidecar=carrier.instance,
                phase=phase,
                ending=ending,
                now=time.time(),
                duration_s=time.monotonic() - self._started,
                has_started=self._has_started,
            )
        )


def is_without(looker: Looker, attestation: Attestation, error: AttestationError) -> bool:
    """Tell whether the attested process merely hasn't the socket any more: it has ended, or executed a program without.

    Such a process was the child of a program that starts another one: until then it has all that its parent has.
    """
    if error.reason is Reason.PROGRAM_CHANGED:
        return looker.has_let_go(attestation)
    return error.reason is Reason.PROCESS_VANISHED


def record_refused(carrier: Carrier, parties: Parties, refused: Refused, *, transport: Transport) -> None:
    """Record what was refused before there was a connection: a handshake that failed, a readiness that is withheld."""
    attempt = RefusedAttempt(
        id=_draw_id(), parties=parties, refusal=refused.reason, detail=refused.detail, transport=transport
    )
    carrier.recorder.record(
        make_record(
            attempt,
            carrier.policies,
            sidecar=carrier.instance,
            phase=Phase.END,
            ending=Ending.REFUSED,
            now=time.time(),
            duration_s=0.0,
        )
    )


def _draw_id() -> str:
    return os.urandom(CONNECTION_ID_BYTES).hex()
