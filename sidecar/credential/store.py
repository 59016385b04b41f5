"""The credentials of this sidecar and of its programs: obtained once for many waiters, renewed ahead of their end.

Belongs here: which credential is usable now, and when the next is asked for. Doesn't: the stream to the CA
(``sidecar/control/``), attestation. Keys live in this object only and are never written.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import OrderedDict
from dataclasses import dataclass
from itertools import count
from typing import Protocol

import msgspec
from cryptography import x509

from shared.model.errors import TouchmarkError, VerificationError
from shared.model.identity.identity import IdentityKind
from shared.model.identity.loaded_code import CodeCheck, LoadedCode
from shared.model.identity.program import Program
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Mode
from shared.model.trust.certificate import BundleVerifier
from shared.model.wire.messages import ProgramEvidence
from shared.runtime.tasks import Tasks
from sidecar.credential.credential import (
    Credential,
    CredentialError,
    IssuanceRefusedError,
    KeyRequest,
    accept_chain,
    make_key_request,
)
from sidecar.events import Events
from sidecar.mesh.policies import Policies
from sidecar.mesh.trust import Trust

MAX_PROGRAMS = 1024
_REFUSAL_MEMORY_S = 1.0
_JITTER = 0.1
_LEAST_RENEWAL_S = 1.0
_FIRST_RETRY_S = 1.0
_LAST_RETRY_S = 60.0
_SPREAD_AGAIN_S = 2.0
_REASONS = frozenset(each.value for each in Reason)


class Issuer(Protocol):
    """What asks the CA: ``control.uplink.Uplink``."""

    async def request_certificate(
        self, csr: bytes, program: Program | None, evidence: ProgramEvidence, *, timeout_s: float
    ) -> tuple[bytes, ...]: ...

    def move(self) -> None:
        """The sidecar's own credential was renewed: authenticate with it."""

    def prove_again(self) -> None:
        """The CA refuses to renew the sidecar's own credential."""


@dataclass(slots=True, kw_only=True)
class _Entry:
    credential: Credential
    evidence: ProgramEvidence
    was_used: bool = True
    renewal: asyncio.TimerHandle | None = None
    retry_s: float = _FIRST_RETRY_S


class CredentialStore:
    """Credentials by program, and the sidecar's own.

    Arguments:
        own: the sidecar's own credential.
        issuer: asks the CA, and is told what becomes of the sidecar's own credential.
        timeout_s: how long one request may take.

    Attributes:
        own: the sidecar's own, to authenticate with at the CA; peers are shown ``obtain_own``'s.
    """

    def __init__(
        self, own: Credential, *, issuer: Issuer, policies: Policies, trust: Trust, tasks: Tasks, events: Events,
        timeout_s: float,
    ) -> None:  # fmt: skip
        self.own = own
        self._issuer = issuer
        self._policies = policies
        self._trust = trust
        self._tasks = tasks
        self._events = events
        self._timeout_s = timeout_s
        self._numbers = count(own.generation + 1)
        self._entries: OrderedDict[Program, _Entry] = OrderedDict()  # The least recently used first.
        self._in_flight: dict[Program | None, asyncio.Task[None]] = {}
        # Requests in flight when the CA said that its issuer had changed: the old issuer may sign their answers.
        self._overtaken: dict[Program | None, float] = {}
        self._refused: OrderedDict[Program, tuple[float, int, CredentialError]] = OrderedDict()
        self._own_renewal: asyncio.TimerHandle | None = None
        self._own_retry_s = _FIRST_RETRY_S
        self._is_own_distrusted = False
        self._schedule_own(self._half_life(own))
        policies.on_change(self._follow_policy)
        trust.on_change(self._replace_distrusted)

    def list_held(self) -> list[Credential]:
        """List what is held for programs, the least recently used first; some may have ended."""
        return [entry.credential for entry in self._entries.values()]

    def get(self, program: Program) -> Credential | None:
        """Return the program's credential when it is valid now and of the kind that its approval now asks for."""
        entry = self._entries.get(program)
        if entry is None:
            return None
        credential = entry.credential
        if credential.not_after <= time.time() or credential.identity.kind is not self._kind_now(program):
            return None
        entry.was_used = True
        self._entries.move_to_end(program)
        return credential

    async def obtain_own(self) -> Credential:
        """Return the sidecar's own credential to show to a peer: none of a distrusted issuer, which every peer refuses.

        Raises:
            CredentialError: the present one is distrusted, and the CA gave no other.
        """
        if self._is_own_distrusted:
            await self._fetch_once(None, ProgramEvidence())
            if self._is_own_distrusted:
                raise CredentialError(
                    "the sidecar's own certificate is distrusted, and the CA has given no other",
                    reason=Reason.CA_UNAVAILABLE,
                )
        return self.own

    async def obtain(self, program: Program, evidence: ProgramEvidence) -> Credential:
        """Return the program's credential, asking the CA where needed: once, however many wait.

        Raises:
            CredentialError: the program isn't approved and the mode is explicit; the CA refused or didn't answer.
        """
        if (credential := self.get(program)) is not None:
            return credential
        if self._kind_now(program) is None:
            raise CredentialError("the program is not approved", reason=Reason.PROGRAM_NOT_APPROVED)
        refused = self._refused.get(program)
        if refused is not None:
            until, generation, error = refused
            if time.monotonic() < until and generation == self._policies.generation:
                raise CredentialError(error.message, reason=error.reason) from error
            del self._refused[program]
        await self._fetch_once(program, evidence)
        if (credential := self.get(program)) is not None:
            return credential
        refused = self._refused.get(program)
        if refused is not None:
            raise CredentialError(refused[2].message, reason=refused[2].reason) from refused[2]
        # The approval changed while the CA answered: the next connection asks again.
        raise CredentialError("the CA's answer doesn't fit the policy in force", reason=Reason.CA_UNAVAILABLE)

    def note_code(self, program: Program, code: LoadedCode) -> None:
        """Show the CA this code when the program's credential is renewed: what was loaded at first may differ."""
        entry = self._entries.get(program)
        if entry is not None and entry.evidence.code is not code:
            entry.evidence = msgspec.structs.replace(entry.evidence, code=code)

    def reissue(self, spread_s: float) -> None:
        """Renew every credential, each at its own moment within ``spread_s``: the issuing authority changed."""
        self._schedule_own(random.uniform(0, spread_s))
        for program, entry in self._entries.items():
            self._schedule(program, entry, random.uniform(0, spread_s))
        for asked in self._in_flight:
            self._overtaken[asked] = random.uniform(0, spread_s)

    def check_own(self, request: KeyRequest, chain: tuple[bytes, ...], verifier: BundleVerifier) -> Credential:
        """Return the own credential that a repeated enrolment brings; it isn't in use yet.

        Arguments:
            verifier: of the bundle that came with it.

        Raises:
            CredentialError: the chain doesn't hold, or makes this sidecar somebody else.
        """
        own = accept_chain(request, chain, verifier=verifier, generation=next(self._numbers), now=time.time())
        if own.identity != self.own.identity:
            raise CredentialError("the CA enrolled this sidecar as somebody else", reason=Reason.CA_UNAVAILABLE)
        return own

    def begin_again(self, own: Credential) -> None:
        """Use the own credential of a repeated enrolment, and renew every program's soon.

        One that the current trust bundle doesn't accept is forgotten: its next use asks anew.
        """
        self.own = own
        self._is_own_distrusted = False
        self._own_retry_s = _FIRST_RETRY_S
        self._schedule_own(self._half_life(own))
        self._refused.clear()
        now = time.time()
        for program, entry in list(self._entries.items()):
            try:
                self._trust.verifier.verify_peer(_parse_chain(entry.credential), now=now)
            except VerificationError:
                self._forget(program)
            else:
                self._schedule(program, entry, random.uniform(0, _SPREAD_AGAIN_S))

    def close(self) -> None:
        """Forget the credentials and their timers."""
        for entry in self._entries.values():
            if entry.renewal is not None:
                entry.renewal.cancel()
        if self._own_renewal is not None:
            self._own_renewal.cancel()
        self._entries.clear()

    def programs(self) -> list[Program]:
        """Return the programs that have a credential."""
        return list(self._entries)

    def _kind_now(self, program: Program) -> IdentityKind | None:
        policy = self._policies.own
        if policy.find_approval(self.own.identity.workload, program) is not None:
            return IdentityKind.PROGRAM
        return IdentityKind.OBSERVED if self._policies.mode is Mode.PERMISSIVE else None

    async def _fetch_once(self, program: Program | None, evidence: ProgramEvidence) -> None:
        task = self._in_flight.get(program)
        if task is None:
            task = self._tasks.spawn(self._fetch(program, evidence), name="certificate request")
            self._in_flight[program] = task
            task.add_done_callback(lambda _: self._end_request(program))
        # Shielded: the first waiter's cancellation must not fail the others.
        await asyncio.wait({task})

    def _end_request(self, program: Program | None) -> None:
        self._in_flight.pop(program, None)
        self._overtaken.pop(program, None)

    async def _fetch(self, program: Program | None, evidence: ProgramEvidence) -> None:
        request = make_key_request()
        try:
            chain = await self._issuer.request_certificate(request.csr, program, evidence, timeout_s=self._timeout_s)
            self._take(program, evidence, request, chain)
        except CredentialError as error:
            self._fail(program, error)
        except IssuanceRefusedError as error:
            reason = Reason(error.reason) if error.reason in _REASONS else Reason.CA_UNAVAILABLE
            self._fail(program, CredentialError(error.message, reason=reason))
            # A CA that can't answer now isn't one that refuses.
            if program is None and error.reason != Reason.CA_UNAVAILABLE:
                self._issuer.prove_again()
        except TouchmarkError as error:
            self._fail(program, CredentialError(error.message, reason=Reason.CA_UNAVAILABLE))

    def _take(
        self, program: Program | None, evidence: ProgramEvidence, request: KeyRequest, chain: tuple[bytes, ...]
    ) -> None:
        credential = accept_chain(
            request, chain, verifier=self._trust.verifier, generation=next(self._numbers), now=time.time()
        )
        identity = credential.identity
        if identity.workload != self.own.identity.workload or identity.program != program:
            raise CredentialError("the CA issued another identity than asked for", reason=Reason.CA_UNAVAILABLE)
        if program is None:
            if credential.issuer != self.own.issuer:
                self._follow_issuer(credential.issuer)
            self.own = credential
            self._is_own_distrusted = False
            self._own_retry_s = _FIRST_RETRY_S
            self._schedule_own(self._overtaken.pop(None, self._half_life(credential)))
            self._issuer.move()
            return
        self._refused.pop(program, None)
        old = self._entries.get(program)
        if old is not None and old.renewal is not None:
            old.renewal.cancel()
        entry = _Entry(credential=credential, evidence=evidence, was_used=old is None)
        self._entries[program] = entry  # A renewal isn't a use: it keeps its place.
        self._schedule(program, entry, self._overtaken.pop(program, self._half_life(credential)))
        while len(self._entries) > MAX_PROGRAMS:
            self._forget(next(iter(self._entries)))

    def _fail(self, program: Program | None, error: CredentialError) -> None:
        self._events.emit(
            "certificate_not_obtained", program=str(program or "sidecar"), reason=error.reason, message=error.message
        )
        if program is None:
            self._schedule_own(self._own_retry_s * random.uniform(0.5, 1))
            self._own_retry_s = min(self._own_retry_s * 2, _LAST_RETRY_S)
            return
        self._refused.pop(program, None)
        if len(self._refused) >= MAX_PROGRAMS:
            self._refused.popitem(last=False)
        self._refused[program] = (time.monotonic() + _REFUSAL_MEMORY_S, self._policies.generation, error)
        if (entry := self._entries.get(program)) is not None:
            self._schedule(program, entry, entry.retry_s * random.uniform(0.5, 1))
            entry.retry_s = min(entry.retry_s * 2, _LAST_RETRY_S)

    def _half_life(self, credential: Credential) -> float:
        # One draw for each credential: drawn again at every tick, renewals would bunch. Half of what is left, not of
        # the certificate's life: it is backdated, and the last ones of an authority are short.
        left_s = credential.not_after - time.time()
        return max(_LEAST_RENEWAL_S, left_s * (0.5 + random.uniform(-_JITTER, _JITTER)))

    def _schedule(self, program: Program, entry: _Entry, delay_s: float) -> None:
        if entry.renewal is not None:
            entry.renewal.cancel()
        entry.renewal = asyncio.get_running_loop().call_later(delay_s, self._renew, program)

    def _follow_issuer(self, issuer: str) -> None:
        """Renew soon what another issuer has signed: the own one doesn't tell the CA any more that it's old."""
        now = asyncio.get_running_loop().time()
        for program, entry in self._entries.items():
            delay_s = random.uniform(0, _SPREAD_AGAIN_S)
            is_later = entry.renewal is not None and entry.renewal.when() > now + delay_s
            if entry.credential.issuer != issuer and is_later:
                self._schedule(program, entry, delay_s)

    def _schedule_own(self, delay_s: float) -> None:
        if self._own_renewal is not None:
            self._own_renewal.cancel()
        self._own_renewal = asyncio.get_running_loop().call_later(delay_s, self._renew_own)

    def _renew(self, program: Program) -> None:
        entry = self._entries.get(program)
        if entry is None:
            return
        is_wanted = entry.was_used and self._kind_now(program) is not None
        if entry.credential.not_after <= time.time() or not is_wanted or self._lacks_code(program, entry.evidence):
            # Unused for half its life, not permitted any more, or nothing to show: the next use asks anew.
            self._forget(program)
            return
        self._spawn_fetch(program, entry.evidence)

    def _renew_own(self) -> None:
        self._spawn_fetch(None, ProgramEvidence())

    def _spawn_fetch(self, program: Program | None, evidence: ProgramEvidence) -> None:
        self._tasks.spawn(self._fetch_once(program, evidence), name="certificate renewal")

    def _forget(self, program: Program) -> None:
        entry = self._entries.pop(program)
        if entry.renewal is not None:
            entry.renewal.cancel()

    def _follow_policy(self, namespace: str) -> None:
        if namespace == self.own.identity.workload.namespace:
            self._replace_wrong_kinds()

    def _replace_wrong_kinds(self) -> None:
        for program, entry in list(self._entries.items()):
            kind = self._kind_now(program)
            if kind is None or (kind is IdentityKind.PROGRAM and self._lacks_code(program, entry.evidence)):
                self._forget(program)
            elif kind is not entry.credential.identity.kind:
                self._refused.pop(program, None)
                self._spawn_fetch(program, entry.evidence)

    def _lacks_code(self, program: Program, evidence: ProgramEvidence) -> bool:
        """Tell whether the CA would miss what the program has loaded: its approval didn't ask for it at first."""
        approval = self._policies.own.find_approval(self.own.identity.workload, program)
        return approval is not None and approval.code is CodeCheck.ENFORCE and evidence.code is msgspec.UNSET

    def _replace_distrusted(self) -> None:
        """Stop using credentials that every peer refuses from now on: the next use of the program asks anew."""
        check = self._trust.verifier.check_not_distrusted
        for program, entry in list(self._entries.items()):
            try:
                check(_parse_chain(entry.credential))
            except VerificationError:
                self._forget(program)
        try:
            check(_parse_chain(self.own))
        except VerificationError:
            self._is_own_distrusted = True
            self._schedule_own(0)
        else:
            self._is_own_distrusted = False


def _parse_chain(credential: Credential) -> list[x509.Certificate]:
    return [x509.load_der_x509_certificate(der) for der in credential.chain]
