"""Whether stored authorities belong together, and whether a key-encryption key opens them. No I/O."""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from ca.authority.founding import open_authority
from ca.authority.kek import KeyEncryptionKey
from ca.store.records import AuthorityKind, AuthorityRecord
from shared.model.errors import InputError
from shared.model.trust.bundle import AuthorityPhase, public_key_digest


def check_authorities(records: Sequence[AuthorityRecord], kek: KeyEncryptionKey) -> None:
    """Check that one authority signs, that each is signed by its root, and that the key opens every one that is kept.

    What this does *not* verify: that they are the authorities of this mesh. Whoever restores must know that.

    Raises:
        InputError: they don't belong together.
        KeyEncryptionError: another key-encryption key sealed them, or they were tampered with.
    """
    roots = {record.authority_id: record for record in records if record.kind is AuthorityKind.ROOT}
    for record in records:
        root = roots.get(record.root_id)
        if root is None:
            raise InputError(f"authority {record.authority_id} has no root")
        certificate = x509.load_der_x509_certificate(record.certificate)
        try:
            certificate.verify_directly_issued_by(x509.load_der_x509_certificate(root.certificate))
        except (InvalidSignature, ValueError, TypeError) as error:
            raise InputError(f"authority {record.authority_id} wasn't signed by its root") from error
        if public_key_digest(certificate) != record.public_key_digest:
            raise InputError(f"authority {record.authority_id} has another key than it says")
        if record.sealed_key:
            open_authority(record, kek)
    active = [record for record in records if record.phase is AuthorityPhase.ACTIVE]
    signing = [record for record in active if record.kind is AuthorityKind.ISSUING]
    if len(signing) != 1 or not any(record.authority_id == signing[0].root_id for record in active):
        raise InputError("no active issuing authority with an active root")
    if not all(record.sealed_key for record in active):
        raise InputError("an active authority has no key")
