"""Authentication of a cluster's user by its client certificate, over a signed challenge. Pure but for the roots.

The API server takes client certificates in TLS, which a port-forward to the CA's pod doesn't carry. So the caller signs
a challenge of this CA with its certificate's key. The certificate must lead to the API server's own roots for clients
(kube-system/extension-apiserver-authentication, as aggregated API servers do it) and be for client authentication; its
common name is the user, its organisations are the groups (kubernetes.io, "X509 client certificates").

A challenge is random, ends after a few minutes, and is known again by a MAC: none is stored. It may be used until it
ends, as a token may. What this does *not* verify: revocation. Kubernetes has none for client certificates.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import os
import struct
from collections.abc import Awaitable, Callable
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ca.kubernetes.view import ClusterUser
from shared.model.errors import NotAuthenticatedError
from shared.model.trust.admin_access import CertificateProof, Challenge, encode_part, make_signed_part

CHALLENGE_LIFETIME_S: Final = 300.0
_HINT: Final = "does `kubectl` work with this kubeconfig? a bearer token will do as well"
_PURPOSES: Final = frozenset({ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE})
_RANDOM_BYTES: Final = 16
_EXPIRY: Final = struct.Struct(">d")
_MAC_BYTES: Final = 32


class UserCertificates:
    """Makes challenges, and says who has answered one.

    Arguments:
        read_roots: returns the roots that client certificates lead to, PEM.
        clock: seconds since the epoch.
        secret: the key of this CA process; a challenge of another process isn't known.
    """

    def __init__(
        self, *, read_roots: Callable[[], Awaitable[bytes]], clock: Callable[[], float], secret: bytes | None = None
    ) -> None:
        self._read_roots = read_roots
        self._clock = clock
        self._secret = secret if secret is not None else os.urandom(_MAC_BYTES)

    def make_challenge(self) -> Challenge:
        """Return a new challenge."""
        expires = self._clock() + CHALLENGE_LIFETIME_S
        body = os.urandom(_RANDOM_BYTES) + _EXPIRY.pack(expires)
        return Challenge(challenge=encode_part(body + self._mac(body)), expires=expires)

    async def authenticate(self, proof: CertificateProof, *, is_again: bool = False) -> ClusterUser:
        """Return who answered a challenge.

        Arguments:
            is_again: it was authenticated while the challenge held; only the certificate's end counts now.

        Raises:
            NotAuthenticatedError: the challenge, the signature or the certificate doesn't hold.
            UnavailableError: the roots can't be read.
        """
        self._check_challenge(proof.challenge, is_again=is_again)
        leaf, *others = [_load(der) for der in proof.chain]
        _check_signature(leaf, proof)
        roots = await self._read_roots()
        _check_chain(leaf, others, roots, now=self._clock())
        names = [str(each.value) for each in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        if len(names) != 1 or not names[0]:
            raise NotAuthenticatedError("the client certificate names no user", hint=_HINT)
        groups = [str(each.value) for each in leaf.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
        return ClusterUser(name=names[0], groups=(*groups, "system:authenticated"))

    def _mac(self, body: bytes) -> bytes:
        return hmac.new(self._secret, body, hashlib.sha256).digest()

    def _check_challenge(self, challenge: bytes, *, is_again: bool) -> None:
        body, mac = challenge[:-_MAC_BYTES], challenge[-_MAC_BYTES:]
        if len(body) != _RANDOM_BYTES + _EXPIRY.size or not hmac.compare_digest(self._mac(body), mac):
            raise NotAuthenticatedError("the challenge isn't this CA's", hint="run the command again")
        if not is_again and _EXPIRY.unpack(body[_RANDOM_BYTES:])[0] <= self._clock():
            raise NotAuthenticatedError("the challenge has expired", hint="run the command again")


def _load(der: bytes) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(der)
    except (ValueError, x509.InvalidVersion) as error:
        raise NotAuthenticatedError("the client certificate can't be read", hint=_HINT) from error


def _check_signature(leaf: x509.Certificate, proof: CertificateProof) -> None:
    signed = make_signed_part(proof.challenge)
    try:
        match leaf.public_key():
            case ec.EllipticCurvePublicKey() as key:
                key.verify(proof.signature, signed, ec.ECDSA(hashes.SHA256()))
            case rsa.RSAPublicKey() as key:
                key.verify(proof.signature, signed, padding.PKCS1v15(), hashes.SHA256())
            case _:
                raise NotAuthenticatedError("client certificates must have an RSA or ECDSA key", hint=_HINT)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError) as error:
        raise NotAuthenticatedError("the challenge isn't signed with the certificate's key", hint=_HINT) from error


def _check_chain(leaf: x509.Certificate, others: list[x509.Certificate], roots: bytes, *, now: float) -> None:
    try:
        trusted = x509.load_pem_x509_certificates(roots) if roots.strip() else []
    except (ValueError, x509.InvalidVersion):
        trusted = []
    if not trusted:
        raise NotAuthenticatedError("this cluster's API server takes no client certificates", hint=_HINT)
    # Clusters' certificates lack what the web's have (a SAN, key identifiers): only what Go's crypto/x509 asks of them
    # for the API server is asked here.
    authority = verification.ExtensionPolicy.permit_all().require_present(
        x509.BasicConstraints, verification.Criticality.AGNOSTIC, _check_authority
    )
    own = verification.ExtensionPolicy.permit_all().require_present(
        x509.ExtendedKeyUsage, verification.Criticality.AGNOSTIC, _check_purpose
    )
    verifier = (
        verification.PolicyBuilder()
        .store(verification.Store(trusted))
        .time(datetime.datetime.fromtimestamp(now, datetime.UTC).replace(tzinfo=None))
        .extension_policies(ca_policy=authority, ee_policy=own)
        .build_client_verifier()
    )
    try:
        verifier.verify(leaf, others)
    except (verification.VerificationError, ValueError, UnsupportedAlgorithm) as error:
        raise NotAuthenticatedError(f"the client certificate doesn't hold: {str(error)[:200]}", hint=_HINT) from error


def _check_authority(
    _policy: verification.Policy, certificate: x509.Certificate, constraints: x509.BasicConstraints
) -> None:
    if not constraints.ca:
        raise ValueError("it was issued by a certificate that is no authority")
    for extension in certificate.extensions:
        if isinstance(extension.value, x509.KeyUsage) and not extension.value.key_cert_sign:
            raise ValueError("it was issued by a certificate that may not sign others")
        # An authority's purposes bound those of what it issues (crypto/x509, checkChainForKeyUsage).
        if isinstance(extension.value, x509.ExtendedKeyUsage) and not _PURPOSES & set(extension.value):
            raise ValueError("it was issued by an authority that isn't for client authentication")


def _check_purpose(
    _policy: verification.Policy, _certificate: x509.Certificate, purposes: x509.ExtendedKeyUsage
) -> None:
    if not _PURPOSES & set(purposes):
        raise ValueError("it isn't for client authentication")
