"""What a program has loaded, as a condition for its identity; the evidence for the CA.

Belongs here: what follows for one connection or certificate. Doesn't: the looks (``sidecar/loaded``), the comparison
with what is approved (``shared/model/identity/loaded_code.py``), looking again (``sidecar/runtime/live_code.py``), what
else a namespace requires of its programs (``sidecar/connection/requirements.py``).
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from shared.model.identity.loaded_code import CodeCheck, ForeignCode
from shared.model.policy.evaluate import NamespacePolicy
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Approval
from shared.model.wire.messages import ProgramEvidence
from sidecar.attest.facts import AttestationError
from sidecar.loaded.looks import SeenCode

if TYPE_CHECKING:
    from sidecar.attest.facts import Attestation
    from sidecar.parts import Sidecar


async def check_code(sidecar: Sidecar, attestation: Attestation) -> str:
    """See that an attested program has loaded nothing but what is approved with it, where its approval says so.

    What this does *not* verify: pages that were changed after they were mapped, and code that has unmapped itself.

    Returns:
        What the record says of it; empty when there is nothing to say.

    Raises:
        AttestationError: it has loaded other code (``code_not_approved``), or it can't be told what.
    """
    if sidecar.sightings is not None:
        sidecar.sightings.note(attestation)
    approval = find_checked(sidecar, attestation)
    if approval is None:
        sidecar.code.look_unhurried(attestation)
        return ""
    try:
        seen = sidecar.code.get_fresh(attestation.execution) or await sidecar.code.look(attestation.execution)
    except AttestationError as error:
        if approval.code is CodeCheck.REPORT:
            return error.message
        raise AttestationError(error.message, reason=error.reason, process=attestation.process) from error
    foreign = find_foreign(sidecar.policies.own, approval, seen)
    if foreign is None:
        return ""
    if approval.code is CodeCheck.REPORT:
        return str(foreign)
    raise AttestationError(str(foreign), reason=Reason.CODE_NOT_APPROVED, process=attestation.process)


async def look_and_describe(sidecar: Sidecar, attestation: Attestation) -> ProgramEvidence:
    """Check a program's loaded code, and say what was seen of the process.

    Raises:
        AttestationError: as ``check_code``.
    """
    await check_code(sidecar, attestation)
    return make_evidence(sidecar, attestation)


def make_evidence(sidecar: Sidecar, attestation: Attestation) -> ProgramEvidence:
    """Return what was seen of a process, for the CA: with its loaded code, if the CA will compare it."""
    process = attestation.process
    evidence = ProgramEvidence(path=process.shown_path, pid=process.pid, uid=process.uid)
    approval = find_checked(sidecar, attestation)
    seen = sidecar.code.get(attestation.execution)
    if approval is None or approval.code is not CodeCheck.ENFORCE or seen is None:
        return evidence
    return ProgramEvidence(path=process.shown_path, pid=process.pid, uid=process.uid, code=seen.code)


def find_checked(sidecar: Sidecar, attestation: Attestation) -> Approval | None:
    """Return the program's approval if it says what follows from code that isn't approved."""
    approval = sidecar.policies.own.find_approval(sidecar.workload, attestation.program)
    return None if approval is None or approval.code is None else approval


def find_foreign(policy: NamespacePolicy, approval: Approval, seen: SeenCode) -> ForeignCode | None:
    """Return what isn't approved of what was seen."""
    return _find_foreign(policy, approval.service_account, approval.jit, seen)


@lru_cache(maxsize=1024)
def _find_foreign(policy: NamespacePolicy, service_account: str, is_jit: bool, seen: SeenCode) -> ForeignCode | None:
    """Compare, or remember: a changed policy and a new look are other objects, and compare by identity."""
    return policy.find_foreign_code(service_account, seen.code, is_jit=is_jit)
