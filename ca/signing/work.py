"""What is done for one certificate, in whichever process: the request is checked, a leaf signed and re-checked. No I/O.

Belongs here: the same few lines for the CA's own process and its signing process. Doesn't: the checks themselves
(``ca/evidence/csr.py``, ``ca/authority/sign.py``), or who may have a certificate (``ca/issuance.py``).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key

from ca.authority.founding import Authority
from ca.authority.sign import Details, SignedLeaf, sign_leaf
from ca.evidence.csr import check_csr
from ca.signing.orders import Answer, Fault, Handover, Order
from ca.store.records import AuthorityKind, AuthorityRecord
from shared.model.errors import InputError, TouchmarkError, UnavailableError, VerificationError
from shared.model.identity.identity import Identity, parse_spiffe_id
from shared.model.trust.bundle import AuthorityPhase

_parse_identity: Final = lru_cache(maxsize=4096)(parse_spiffe_id)


def check_and_sign(
    authority: Authority,
    csr_der: bytes,
    identity: Identity,
    *,
    serial: int,
    now: float,
    lifetime_s: float,
    details: Details,
) -> SignedLeaf:
    """Check a request, and sign a leaf for its key.

    Raises:
        VerificationError: the request doesn't hold, or what was signed breaks the profile.
        UnavailableError: the authority has ended, or nearly.
        InputError: the lifetime or the details are out of their bounds.

    What this does *not* verify: that the asker may have the identity.
    """
    key = check_csr(csr_der)
    return sign_leaf(authority, key, identity, serial=serial, now=now, lifetime_s=lifetime_s, details=details)


def write_handover(authority: Authority) -> Handover:
    """Write what the signing process needs of an authority, its key included."""
    return Handover(
        authority_id=authority.authority_id,
        certificate=authority.record.certificate,
        key=authority.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        not_before=authority.record.not_before,
        not_after=authority.record.not_after,
    )


def read_handover(handover: Handover) -> Authority:
    """Return the authority that was handed over; of its record, what signing reads.

    Raises:
        ValueError: its key isn't on a curve.
    """
    key = load_der_private_key(handover.key, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("the authority's key isn't on a curve")
    certificate = x509.load_der_x509_certificate(handover.certificate)
    record = AuthorityRecord(
        authority_id=handover.authority_id,
        kind=AuthorityKind.ISSUING,
        phase=AuthorityPhase.ACTIVE,
        root_id="",
        subject="",
        certificate=handover.certificate,
        public_key_digest="",
        sealed_key=b"",
        not_before=handover.not_before,
        not_after=handover.not_after,
        created=0.0,
    )
    return Authority(record=record, certificate=certificate, key=key)


def fill(order: Order, authority: Authority) -> Answer:
    """Make what was ordered. Raises nothing: what goes wrong is the answer."""
    try:
        leaf = check_and_sign(
            authority,
            order.csr,
            _parse_identity(order.identity),
            serial=int.from_bytes(order.serial, "big"),
            now=order.now,
            lifetime_s=order.lifetime_s,
            details=Details(path=order.path, approved_by=order.approved_by, instance=order.instance),
        )
    except TouchmarkError as error:
        return Answer(order.number, fault=Fault(error.code, error.message, error.hint, error.reason))
    except Exception as error:  # It may be one request's: the others have theirs.
        return Answer(order.number, fault=Fault("", repr(error)[:500]))
    return Answer(order.number, leaf.der, leaf.not_before, leaf.not_after)


def make_error(fault: Fault) -> TouchmarkError:
    """Return the error that a fault stands for, as signing in this process would raise it."""
    if fault.code == VerificationError.code:
        return VerificationError(fault.message, reason=fault.reason, hint=fault.hint)
    if fault.code == InputError.code:
        return InputError(fault.message, hint=fault.hint)
    if fault.code == UnavailableError.code:
        return UnavailableError(fault.message, hint=fault.hint)
    return UnavailableError(f"the signing process failed: {fault.message}")
