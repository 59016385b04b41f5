"""The CA's story: request → authenticate → check evidence → decide → sign → record.

Authentication happens once a stream, in ``ca/authenticate``; what follows is here and reads top to bottom.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from ca.allowance import Allowance
from ca.authority.authorities import Authorities
from ca.authority.sign import Details, check_lifetime
from ca.authority.truncation import log_truncation
from ca.evidence.process import check_process
from ca.signing.signer import OwnSigner, Signer, Wanted
from ca.store.ledger import PolicyChangedError
from ca.store.records import CertificateRecord, JoinGrant
from ca.store.store import Store
from ca.tracing import step
from shared.model.errors import ConflictError, RefusedError, UnavailableError, VerificationError
from shared.model.identity.identity import Identity, IdentityKind, Workload
from shared.model.identity.loaded_code import CodeCheck
from shared.model.identity.program import Program
from shared.model.policy.evaluate import NamespacePolicy, compile_namespace
from shared.model.policy.modes import effective_mode
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Approval, Mode
from shared.model.wire.messages import ProgramEvidence

_MAX_COMPILED = 1_000
# A namespace that changes again each time while a certificate is made for it changes without end.
_MAX_DECIDED = 5
# A lost answer is asked for again within seconds; by then as many others may have asked.
_MAX_RECENT = 4_096
_RECENT_S = 60.0
# Instance, digest of the request, identity, who approved it, and the authority that is active.
_Asked = tuple[str, bytes, Identity, str, str]


class IssuanceRefused(RefusedError):
    """The CA doesn't sign this.

    Arguments:
        reason: a ``Reason``'s value or an error's code, as ``CertificateRefused`` carries it.
    """

    def __init__(self, message: str, *, reason: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedChain:
    """The chain to send (DER: leaf, then its issuer, without the root) and its record in the ledger."""

    chain: tuple[bytes, ...]
    record: CertificateRecord


class Issuance:
    """Decides what to sign, signs it and enters it in the ledger before it leaves.

    Arguments:
        check_clock: raises ``UnavailableError`` where nothing may be issued by this CA's clock.
        signer: checks requests and signs; None: this process.
    """

    def __init__(
        self,
        store: Store,
        authorities: Authorities,
        *,
        leaf_lifetime_s: float = 3600.0,
        check_clock: Callable[[], None] = lambda: None,
        signer: Signer | None = None,
    ) -> None:
        self._signer = signer if signer is not None else OwnSigner()
        self.store = store
        self.authorities = authorities
        self.leaf_lifetime_s = check_lifetime(leaf_lifetime_s)
        self._allowance = Allowance(self.leaf_lifetime_s)
        self._check_clock = check_clock
        self._compiled: dict[str, NamespacePolicy] = {}
        store.namespaces.on_change(self._forget_policy)
        self._recent: OrderedDict[_Asked, asyncio.Task[IssuedChain]] = OrderedDict()
        self._looked = -math.inf

    async def issue_sidecar(self, grant: JoinGrant, csr_der: bytes, now: float) -> IssuedChain:
        """Issue the certificate of a sidecar itself, to one that was authenticated.

        Raises:
            IssuanceRefused: the request doesn't hold.
            UnavailableError: the store or the authority doesn't work.
        """
        identity = Identity(trust_domain=self.store.trust_domain, workload=grant.workload, kind=IdentityKind.SIDECAR)
        return await self._issue_once(
            csr_der, identity, instance=grant.instance, evidence=ProgramEvidence(), approval=None, now=now
        )

    async def issue_program(
        self,
        sidecar_identity: Identity,
        csr_der: bytes,
        program: Program,
        evidence: ProgramEvidence,
        now: float,
        *,
        instance: str = "",
    ) -> IssuedChain:
        """Issue a certificate for a program of the sidecar's own workload, and of no other.

        Raises:
            IssuanceRefused: the request or evidence doesn't hold; the workload is explicit and the program not
                approved (``program_not_approved``); it has loaded code that isn't approved, or the sidecar doesn't say
                what it has loaded (``code_not_approved``).
            UnavailableError: the store or the authority doesn't work.
        """
        if sidecar_identity.kind is not IdentityKind.SIDECAR:
            raise IssuanceRefused("only a sidecar asks for its programs", reason=Reason.PEER_UNTRUSTED)
        with step("request check"):
            _check(evidence)
        for _ in range(_MAX_DECIDED):
            with step("policy check"):
                policy, kind, approval = await self._decide(sidecar_identity, program, evidence)
            identity = Identity(
                trust_domain=self.store.trust_domain, workload=sidecar_identity.workload, kind=kind, program=program
            )
            try:
                return await self._issue_once(
                    csr_der, identity, instance=instance, evidence=evidence, approval=approval, now=now,
                    policy_version=policy.state.version,
                )  # fmt: skip
            except PolicyChangedError:
                self._forget_policy(sidecar_identity.workload.namespace)
        raise UnavailableError(
            f"namespace {sidecar_identity.workload.namespace} changes too often", hint="try again in a moment"
        )

    async def _decide(
        self, sidecar: Identity, program: Program, evidence: ProgramEvidence
    ) -> tuple[NamespacePolicy, IdentityKind, Approval | None]:
        """Decide by the policy that is remembered, which the ledger compares; refuse only by what the store says now.

        Raises:
            IssuanceRefused: this program gets no certificate.
        """
        known = self._compiled.get(sidecar.workload.namespace)
        if known is not None:
            try:
                return known, *_decide(known, sidecar.workload, program, evidence)
            except IssuanceRefused:
                pass  # Another replica may have approved it a moment ago.
        policy = await self._compile(sidecar.workload.namespace)
        return policy, *_decide(policy, sidecar.workload, program, evidence)

    async def _compile(self, namespace: str) -> NamespacePolicy:
        state = await self.store.namespaces.get_state(namespace)
        policy = self._compiled.get(namespace)
        if policy is None or policy.state.version != state.version:
            if len(self._compiled) >= _MAX_COMPILED:
                self._compiled.clear()
            policy = self._compiled[namespace] = compile_namespace(state)
        return policy

    async def _check_version(self, namespace: str, version: int | None) -> None:
        """Check that a namespace still is as it was decided by, as the ledger does for what it enters.

        Raises:
            PolicyChangedError: it isn't.
        """
        if version is not None and (await self.store.namespaces.get_state(namespace)).version != version:
            raise PolicyChangedError(f"what namespace {namespace} says has changed meanwhile")

    def _forget_policy(self, namespace: str) -> None:
        self._compiled.pop(namespace, None)

    async def _issue_once(
        self,
        csr_der: bytes,
        identity: Identity,
        *,
        instance: str,
        evidence: ProgramEvidence,
        approval: Approval | None,
        now: float,
        policy_version: int | None = None,
    ) -> IssuedChain:
        """Issue, or give the same answer again: a sidecar asks again by the same request where an answer was lost.

        What was decided anew must be the same: identity, approval and the authority that signs.

        Raises:
            AllowanceUsedError: the sidecar has asked for too many.
            UnavailableError: this CA's clock is astray, or the store or the authority doesn't work.
        """
        self._check_clock()
        asked = (
            instance,
            hashlib.sha256(csr_der).digest(),
            identity,
            approval.approved_by if approval is not None else "",
            self.authorities.active.authority_id,
        )
        issuing = self._recent.get(asked)
        if issuing is not None and (not issuing.done() or self._may_be_repeated(issuing, now)):
            issued = await asyncio.shield(issuing)
            await self._check_version(identity.workload.namespace, policy_version)
            return issued
        self._allowance.take(instance, now=now)
        work = self._sign_and_record(csr_der, identity, instance, evidence, approval, now, policy_version)
        # Not cancelled with the stream that asked: what is in the ledger then is what the next stream is given.
        issuing = self._recent[asked] = asyncio.create_task(work, name=f"issue-once-{instance}")
        issuing.add_done_callback(_note_outcome)
        self._recent.move_to_end(asked)
        self._forget_older(now)
        return await asyncio.shield(issuing)

    def _forget_older(self, now: float) -> None:
        """Forget answers that are given to nobody any more; each takes 2 KiB. Looked for once a second."""
        if len(self._recent) <= _MAX_RECENT and abs(now - self._looked) < 1:
            return
        self._looked = now
        while len(self._recent) > 1:
            oldest = next(iter(self._recent.values()))
            is_needed = not oldest.done() or self._may_be_repeated(oldest, now)
            if is_needed and len(self._recent) <= _MAX_RECENT:
                return
            self._recent.popitem(last=False)

    @staticmethod
    def _may_be_repeated(issued: asyncio.Task[IssuedChain], now: float) -> bool:
        if issued.cancelled() or issued.exception() is not None:
            return False
        return 0 <= now - issued.result().record.issued < _RECENT_S

    async def _sign_and_record(
        self,
        csr_der: bytes,
        identity: Identity,
        instance: str,
        evidence: ProgramEvidence,
        approval: Approval | None,
        now: float,
        policy_version: int | None,
    ) -> IssuedChain:
        for is_last in (False, True):
            with step("sign"):
                issued = await self._sign(csr_der, identity, instance, evidence, approval, now)
            try:
                with step("ledger commit"):
                    await self.store.ledger.record(issued.record, policy_version=policy_version)
            except PolicyChangedError:
                raise
            except ConflictError:
                if is_last:
                    raise
                # The authority was retired or tainted since it was read. Nothing of it has left; sign with today's.
                await self.authorities.reload()
            else:
                return issued
        raise AssertionError("unreachable")

    async def _sign(
        self,
        csr_der: bytes,
        identity: Identity,
        instance: str,
        evidence: ProgramEvidence,
        approval: Approval | None,
        now: float,
    ) -> IssuedChain:
        authority = self.authorities.active
        approved_by = approval.approved_by if approval is not None else ""
        try:
            leaf = await self._signer.sign(
                authority,
                Wanted(
                    csr_der=csr_der,
                    identity=identity,
                    now=now,
                    lifetime_s=self.leaf_lifetime_s,
                    details=Details(path=evidence.path[:256], approved_by=approved_by[:128], instance=instance),
                ),
            )
        except VerificationError as error:
            raise IssuanceRefused(error.message, reason=error.reason, hint=error.hint) from error
        log_truncation(authority.authority_id, now=now, lifetime_s=self.leaf_lifetime_s, end=leaf.not_after)
        record = CertificateRecord(
            serial=leaf.serial,
            identity=identity,
            authority_id=authority.authority_id,
            instance=instance,
            issued=now,
            not_before=leaf.not_before,
            not_after=leaf.not_after,
            path=evidence.path,
            pid=evidence.pid,
            uid=evidence.uid,
            approved_by=approved_by,
        )
        return IssuedChain(chain=(leaf.der, authority.record.certificate), record=record)


def _decide(
    policy: NamespacePolicy, workload: Workload, program: Program, evidence: ProgramEvidence
) -> tuple[IdentityKind, Approval | None]:
    """Return as what a program is certified, and by which approval.

    Raises:
        IssuanceRefused: as ``Issuance.issue_program``.
    """
    approval = policy.find_approval(workload, program)
    if approval is not None:
        if approval.code is CodeCheck.ENFORCE:
            _check_code(policy, approval, evidence)
        return IdentityKind.PROGRAM, approval
    if effective_mode(policy.state, workload) is Mode.EXPLICIT:
        raise IssuanceRefused(
            f"{program} is not approved for {workload}",
            reason=Reason.PROGRAM_NOT_APPROVED,
            hint=f"review it, then `touchmark program approve {workload} {program}`",
        )
    return IdentityKind.OBSERVED, None


def _check_code(policy: NamespacePolicy, approval: Approval, evidence: ProgramEvidence) -> None:
    """See that the program has loaded nothing but what is approved. What is loaded is the sidecar's claim, as all is.

    Raises:
        IssuanceRefused: it has, or the sidecar doesn't say.
    """
    workload = f"{policy.state.namespace}/{approval.service_account}"
    if evidence.code is msgspec.UNSET:
        raise IssuanceRefused(
            f"the sidecar doesn't say what {approval.program} has loaded",
            reason=Reason.CODE_NOT_APPROVED,
            hint="upgrade the sidecar, or approve the program with --code report",
        )
    foreign = policy.find_foreign_code(approval.service_account, evidence.code, is_jit=approval.jit)
    if foreign is not None:
        raise IssuanceRefused(
            str(foreign),
            reason=Reason.CODE_NOT_APPROVED,
            hint=f"review it, then `touchmark program update-code {workload} --from-decisions`",
        )


def _note_outcome(issuing: asyncio.Task[IssuedChain]) -> None:
    if not issuing.cancelled():
        issuing.exception()  # Retrieved here as well: its waiter may have been cancelled.


def _check(evidence: ProgramEvidence) -> None:
    try:
        check_process(evidence)
    except VerificationError as error:
        raise IssuanceRefused(error.message, reason=error.reason, hint=error.hint) from error
