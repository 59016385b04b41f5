"""The key by which a sidecar outside Kubernetes comes back after an outage: kept, used once, followed by another one.

Belongs here: the key's life, and what is written of it. Doesn't: the file (``state_directory.py``), a TPM that makes
and keeps the keys (``tpm.py``), or the stream (``sidecar/control``). Draws keys. Without a directory one lives as long
as the process.

The successor is written before it is offered, and takes the key's place only when the CA's answer is there: whichever
message is lost, and whenever the process ends, the same key asks again with the same successor.
"""

from __future__ import annotations

import asyncio
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)

from shared.model.errors import InputError
from shared.model.identity.identity import parse_workload
from shared.model.trust.join_token import JoinToken
from shared.model.trust.renewal import describe_renewal
from shared.model.wire.messages import Registration, Renew
from sidecar.credential.state_directory import FILE, StateDirectory

if TYPE_CHECKING:
    from sidecar.credential.tpm import Tpm


class Kept(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What outlives the process.

    Attributes:
        token_id: of the join token that the sidecar joined by.
        ca: ``host:port``, as that token named it.
        instance: the sidecar's name.
        key: PKCS #8, DER; or, behind ``TPM2``, what a TPM gave of it.
        following: the successor that was offered, and whose answer isn't there yet.
        roots: DER, of the trust bundle.
    """

    token_id: str
    ca: str
    trust_domain: str
    workload: str
    instance: str
    key: bytes
    following: bytes | None = None
    roots: tuple[bytes, ...] = ()

    def __repr__(self) -> str:
        return f"Kept(instance={self.instance!r}, workload={self.workload!r})"


class _Asked(Enum):
    NOTHING = auto()
    TO_KEEP = auto()
    TO_RENEW = auto()


# What is kept when a sidecar has joined: a key, names, and the roots of a trust bundle that is usual.
_KEPT_BYTES: Final = 16 * 1024
_IN_TPM: Final = b"TPM2"
_decoder: msgspec.json.Decoder[Kept] = msgspec.json.Decoder(Kept, strict=True)


class RenewalKey:
    """One sidecar's renewal key.

    Arguments:
        kept: what there is of it.
        directory: where it is written; None: nowhere.
        is_known: whether the CA has it already.
        tpm: makes its successors; None: they are drawn here.

    Attributes:
        grace_s: for so long after the certificate's end it counts, as the CA said last; 0: not known, or not at all.
    """

    def __init__(self, kept: Kept, directory: StateDirectory | None, *, is_known: bool, tpm: Tpm | None = None) -> None:
        self._kept = kept
        self._directory = directory
        self._tpm = tpm
        self._is_known = is_known
        self._asked = _Asked.NOTHING
        self._writing = asyncio.Lock()
        self.grace_s = 0

    @property
    def kept(self) -> Kept:
        """What there is of it now."""
        return self._kept

    @property
    def is_known(self) -> bool:
        """Tell whether the CA has it."""
        return self._is_known

    @property
    def is_renewing(self) -> bool:
        """Tell whether the answer to a renewal is waited for."""
        return self._asked is _Asked.TO_RENEW

    @property
    def place(self) -> str:
        """Where it is kept, for people."""
        if self._directory is None:
            return "memory"
        if self._tpm is not None and self._kept.key.startswith(_IN_TPM):
            return f"{self._directory.path}, bound to the TPM {self._tpm.path}"
        return str(self._directory.path)

    async def offer(self) -> bytes:
        """Return the request (DER) by which the CA learns the key when the sidecar joins.

        Raises:
            InputError: the TPM no longer knows the key.
            UnavailableError: the key couldn't be kept afterwards: the join token would be spent for nothing. Or the TPM
                doesn't answer.
        """
        if self._directory is not None:
            async with self._writing:
                await asyncio.to_thread(self._directory.check_writable, _KEPT_BYTES)
        self._asked = _Asked.TO_KEEP
        return await asyncio.to_thread(self._request, self._kept.key)

    async def renew(self, csr: bytes, registration: Registration, *, nonce: bytes, server_certificate: bytes) -> Renew:
        """Make the message that uses the key up.

        Arguments:
            csr: the request for the sidecar's new certificate.
            nonce, server_certificate: of the stream that it will be sent on.

        Raises:
            InputError: the TPM no longer knows the key.
            UnavailableError: the successor can't be written, or the TPM doesn't answer.
        """
        if self._kept.following is None:
            await self._change(following=await asyncio.to_thread(_draw, self._tpm))
        key = await asyncio.to_thread(_load, self._kept.key, self._tpm)
        following = await asyncio.to_thread(self._request, self._kept.following or b"")
        statement = describe_renewal(
            nonce=nonce,
            server_certificate=server_certificate,
            trust_domain=self._kept.trust_domain,
            instance=registration.instance,
            csr=csr,
            following=following,
        )
        self._asked = _Asked.TO_RENEW
        return Renew(
            csr=csr,
            key=key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            following=following,
            signature=await asyncio.to_thread(key.sign, statement, ec.ECDSA(hashes.SHA256())),
            registration=registration,
        )

    async def keep(self, *, grace_s: int, roots: tuple[bytes, ...], has_joined: bool = True) -> None:
        """Take the CA's welcome: after a renewal the successor takes the key's place.

        Arguments:
            grace_s: 0: the CA hasn't the key.
            roots: of the welcome's trust bundle.
            has_joined: False: it answers a resumption. A renewal that was asked for before may never have arrived.

        Raises:
            UnavailableError: it can't be written; the welcome must not be used then, so that the CA can be asked again.
        """
        asked = self._asked if has_joined else _Asked.NOTHING
        if asked is _Asked.TO_RENEW:
            await self._change(key=self._kept.following, following=None, roots=roots)
        elif asked is _Asked.TO_KEEP and grace_s > 0:
            await self._change(roots=roots)
        self._asked = _Asked.NOTHING
        self._is_known = grace_s > 0
        self.grace_s = grace_s

    async def keep_roots(self, roots: tuple[bytes, ...]) -> None:
        """Take the roots of another trust bundle.

        Raises:
            UnavailableError: they can't be written.
        """
        if self._is_known and roots != self._kept.roots:
            await self._change(roots=roots)

    def _request(self, key: bytes) -> bytes:
        return _make_request(_load(key, self._tpm))

    async def _change(self, **values: object) -> None:
        async with self._writing:
            kept = msgspec.structs.replace(self._kept, **values)
            if self._directory is not None:
                await asyncio.to_thread(self._directory.write, msgspec.json.encode(kept))
            self._kept = kept


def begin_renewal_key(
    token: JoinToken, *, instance: str, directory: StateDirectory | None, tpm: Tpm | None = None
) -> RenewalKey:
    """Draw a key for a sidecar that joins by this token, in the TPM if there is one.

    Raises:
        UnavailableError: the TPM doesn't answer, or refuses.
    """
    kept = Kept(
        token_id=token.token_id,
        ca=token.ca,
        trust_domain=token.trust_domain,
        workload=token.workload,
        instance=instance,
        key=_draw(tpm),
    )
    return RenewalKey(kept, directory, is_known=False, tpm=tpm)


def load_renewal_key(directory: StateDirectory, *, tpm: Tpm | None = None) -> RenewalKey | None:
    """Return the key that an earlier process has written; None: there is none.

    Arguments:
        tpm: makes its successors, also of a key that was drawn without one.

    Raises:
        InputError: the file can't be used, or its key is another TPM's.
        MachineError: it can't be read.
        UnavailableError: the TPM doesn't answer, or refuses.
    """
    content = directory.read()
    if content is None:
        return None
    try:
        kept = _decoder.decode(content)
        parse_workload(kept.workload)
        for key in (kept.key, kept.following):
            if key is not None:
                _load(key, tpm)
        for root in kept.roots:
            x509.load_der_x509_certificate(root)
        if not kept.roots:
            raise ValueError("no roots")
    except (msgspec.DecodeError, ValueError, TypeError) as error:
        raise InputError(
            f"{directory.path / FILE} is damaged", hint="take it away, and start the sidecar with a new join token"
        ) from error
    return RenewalKey(kept, directory, is_known=True, tpm=tpm)


def _draw(tpm: Tpm | None) -> bytes:
    if tpm is not None:
        return tpm.draw()
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def _load(der: bytes, tpm: Tpm | None) -> ec.EllipticCurvePrivateKey:
    if der.startswith(_IN_TPM):
        if tpm is None:
            raise InputError(
                "the renewal key is bound to a TPM", hint="name it by --tpm, as before: /dev/tpmrm0 on Linux"
            )
        return tpm.load(der)
    key = load_der_private_key(der, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("not a P-256 key")
    return key


def _make_request(key: ec.EllipticCurvePrivateKey) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
