"""What serves a destination in this pod: the program that listens there, and the credential it is served with.

Belongs here: these steps of both inbound stories and of the readiness gate. Doesn't: their order.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from shared.model.errors import TouchmarkError
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Mode
from sidecar.attest.facts import Attestation, AttestationError
from sidecar.code_check import check_code, make_evidence
from sidecar.connection.parties import Parties
from sidecar.connection.requirements import check_origin
from sidecar.sockets.address import Endpoint
from sidecar.tls.handshake import HandshakeError

if TYPE_CHECKING:
    from sidecar.credential.credential import Credential
    from sidecar.parts import Sidecar


class Listener(msgspec.Struct, frozen=True, kw_only=True):
    """What serves a destination here: where, run by which program, or why that isn't known.

    Attributes:
        unproven: a program that was attested, and mayn't be used as such because of what it has loaded.
    """

    application: Endpoint | None
    attestation: Attestation | None = None
    unproven: Attestation | None = None
    why: Reason | None = None
    detail: str = ""


async def attest_listener(sidecar: Sidecar, destination: Endpoint) -> Listener:
    """Find out which program listens behind a destination; why there is none is a fact as well."""
    application = sidecar.application_of(*destination) if destination[1] else None
    if application is None:
        return Listener(application=None, why=Reason.DESTINATION_NOT_SERVED)
    return await attest_application(sidecar, application)


async def attest_application(sidecar: Sidecar, application: Endpoint) -> Listener:
    """Find out which program listens at an address of this pod."""
    began = time.perf_counter()
    try:
        attestation = sidecar.attestor.attest_listener_now(*application)
        if attestation is None:
            attestation = await sidecar.attestor.attest_listener(*application)
    except AttestationError as error:
        sidecar.counts.fail_attestation(error.reason)
        return Listener(application=application, why=error.reason, detail=error.message)
    sidecar.counts.attestations.observe(time.perf_counter() - began)
    try:
        check_origin(sidecar.policies.own, attestation)
        detail = await check_code(sidecar, attestation)
    except AttestationError as error:
        sidecar.counts.fail_attestation(error.reason)
        return Listener(application=application, unproven=attestation, why=error.reason, detail=error.message)
    return Listener(application=application, attestation=attestation, detail=detail)


async def choose_listener_credential(sidecar: Sidecar, listener: Listener) -> Credential:
    """Return the listening program's credential, or the sidecar's own where it has none.

    A stranger can cause no more than the one issuance that this local program gets anyway: single flight, cached, and
    never one for a program that explicit mode doesn't approve.

    Raises:
        HandshakeError: ``ca_unavailable``: the sidecar's own is distrusted, and the CA gave no other.
    """
    attestation = listener.attestation
    if attestation is None:
        return await _obtain_own(sidecar)
    credential = sidecar.credentials.get(attestation.program)
    if credential is not None:
        return credential
    policy = sidecar.policies.own
    is_approved = policy.find_approval(sidecar.workload, attestation.program) is not None
    if not is_approved and sidecar.policies.mode is Mode.EXPLICIT:
        return await _obtain_own(sidecar)
    try:
        async with asyncio.timeout(sidecar.limits.obtain_s):
            return await sidecar.credentials.obtain(attestation.program, make_evidence(sidecar, attestation))
    except (TouchmarkError, TimeoutError):
        return await _obtain_own(sidecar)


async def _obtain_own(sidecar: Sidecar) -> Credential:
    try:
        async with asyncio.timeout(sidecar.limits.obtain_s):
            return await sidecar.credentials.obtain_own()
    except (TouchmarkError, TimeoutError) as error:
        raise HandshakeError(str(error), reason=Reason.CA_UNAVAILABLE) from error


def is_approved(sidecar: Sidecar, listener: Listener) -> bool:
    """Tell whether an approved program listens there."""
    attestation = listener.attestation
    return attestation is not None and (
        sidecar.policies.own.find_approval(sidecar.workload, attestation.program) is not None
    )


def serves_listener(sidecar: Sidecar, used: Credential, listener: Listener) -> bool:
    """Whether the credential in use is (still) the one to serve this listener with."""
    if time.time() >= used.not_after:
        return False
    attested = listener.attestation.program if listener.attestation else None
    if used.identity.program is not None:
        return attested == used.identity.program and sidecar.credentials.get(used.identity.program) is not None
    # The sidecar's own credential serves what has no credential; when it has one by now, that is the one to show.
    return attested is None or sidecar.credentials.get(attested) is None


def note_listener(sidecar: Sidecar, parties: Parties, listener: Listener) -> None:
    """Say which program serves the connection, or why none is known."""
    attestation = listener.attestation
    parties.destination = replace(
        parties.destination,
        workload=sidecar.workload,
        listed=sidecar.workload,
        program=attestation.program if attestation else None,
        why_unidentified=listener.why,
    )
    if (attested := attestation or listener.unproven) is not None:
        parties.note_attestation(attested)
