"""Certificates of the profile: verified against a trust bundle, checked against the profile, read as identities.

Belongs here: what a verifier and the CA's re-check share. Doesn't: signing (``ca/authority/sign.py``), TLS. Pure: the
time is an argument.

Source: SPIFFE X509-SVID, sections 2 to 5; RFC 5280, sections 4.2 and 6.
"""

from __future__ import annotations

import datetime
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar, cast

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from shared.model.errors import IdentityError, VerificationError
from shared.model.identity.identity import Identity, parse_spiffe_id
from shared.model.policy.reasons import Reason
from shared.model.trust.bundle import TrustBundle, list_instances, name_serial, public_key_digest

# Touchmark's details extension: evidence for people, never policy input; it names the sidecar, by which an evicted
# one's leaves are refused. The arcs after 2554 are a UUID's, as anyone may make them (Microsoft, "Obtaining an Object
# Identifier"). Rejected: the arc 2.25 of ITU-T X.667, whose one number of 128 bits Go doesn't read, so that its
# programs (ghostunnel, go-spiffe) refuse the whole certificate.
DETAILS_OID = ObjectIdentifier("1.2.840.113556.1.8000.2554.54147.29978.42637.11035.47349.11483911.11341315")
MAX_CHAIN_CERTIFICATES = 4
# Altogether; ours take 2 KiB. Who is remembered fills no more of the verifier's memory than it has to.
MAX_CHAIN_BYTES = 16 * 1024
_MAX_REMEMBERED_CHAINS = 1024
_PURPOSES = frozenset((ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH))
_Kind = TypeVar("_Kind", bound=x509.ExtensionType)
# The same identities come again with each renewal.
_parse_identity = lru_cache(maxsize=_MAX_REMEMBERED_CHAINS)(parse_spiffe_id)


class EvictedError(VerificationError):
    """The leaf was issued to a sidecar that was evicted since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedPeer:
    """What a verified chain proves, and until when.

    Attributes:
        identity: of the leaf.
        not_after: the earliest end of any certificate in the chain, in seconds since the epoch.
        issuer: the common name of the leaf's issuer.
        serial: the leaf's serial number.
        bundle_sequence: the bundle that it was verified against; another one asks for a new verification.
        chain: the presented certificates, leaf first, for that.
    """

    identity: Identity
    not_after: float
    issuer: str
    serial: int
    bundle_sequence: int
    chain: tuple[x509.Certificate, ...]


class BundleVerifier:
    """A trust bundle made ready to verify chains. Build one for each sequence number.

    A chain that held is remembered, byte by byte: verification is a function of chain, bundle (with its distrust list)
    and time, so it holds again while every certificate of it is valid. Peers come back with every new tunnel.

    Arguments:
        most_remembered: chains; each takes 23 KiB, with what was parsed of it.

    Raises:
        ValueError: a certificate or an entry in the bundle can't be parsed.
    """

    def __init__(self, bundle: TrustBundle, *, most_remembered: int = _MAX_REMEMBERED_CHAINS) -> None:
        self.bundle = bundle
        self._most_remembered = most_remembered
        self._roots = roots = [x509.load_der_x509_certificate(der) for der in bundle.roots]
        self._issuers = frozenset(bundle.issuers)
        self._distrusted = frozenset(bundle.distrusted)
        self._distrusted_instances = list_instances(bundle.distrusted)
        self._builder = verification.PolicyBuilder().store(verification.Store(roots)).max_chain_depth(1)
        # Chain → since when all of it is valid, and what it proves.
        self._remembered: OrderedDict[tuple[bytes, ...], tuple[float, VerifiedPeer]] = OrderedDict()

    def verify_peer(self, chain: Sequence[x509.Certificate], *, now: float) -> VerifiedPeer:
        """Verify a presented chain, leaf first, and return what it proves.

        Arguments:
            chain: the certificates that the peer sent, at most ``MAX_CHAIN_CERTIFICATES`` of ``MAX_CHAIN_BYTES``
                altogether.
            now: seconds since the epoch.

        Raises:
            VerificationError: with the reason ``peer_untrusted``, ``peer_expired`` or ``peer_distrusted``.

        What this does *not* verify: that the peer holds the key (the TLS handshake does), that its program is approved
        or that the workload is the expected one (policy does).
        """
        return self._verify(tuple(each.public_bytes(Encoding.DER) for each in chain), chain, now=now)

    def verify_presented(self, chain: Sequence[bytes], *, now: float) -> VerifiedPeer:
        """Verify a chain as it came, DER by DER: as ``verify_peer``, but a known one isn't parsed again.

        Raises:
            VerificationError: as ``verify_peer``; ``peer_untrusted`` where a certificate can't be parsed.
        """
        return self._verify(tuple(chain), None, now=now)

    def _verify(self, key: tuple[bytes, ...], chain: Sequence[x509.Certificate] | None, *, now: float) -> VerifiedPeer:
        known = self._remembered.get(key)
        if known is not None and known[0] <= now < known[1].not_after:
            self._remembered.move_to_end(key)
            return known[1]
        try:
            if not key or len(key) > MAX_CHAIN_CERTIFICATES or sum(map(len, key)) > MAX_CHAIN_BYTES:
                raise VerificationError(
                    "the peer sent no certificate chain, or one that is too long", reason=Reason.PEER_UNTRUSTED
                )
            if chain is None:
                chain = [x509.load_der_x509_certificate(der) for der in key]
            peer, not_before = self._verify_peer(chain, now=now)
            self._remembered[key] = (not_before, peer)
            if len(self._remembered) > self._most_remembered:
                self._remembered.popitem(last=False)
            return peer
        except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
            # The peer chooses what it presents: a key or an extension that can't even be parsed is its fault.
            raise VerificationError(f"the peer's chain can't be read: {error}", reason=Reason.PEER_UNTRUSTED) from error

    def check_not_distrusted(self, chain: Sequence[x509.Certificate]) -> None:
        """Check that no key in a presented chain is distrusted, nor its leaf by its serial number or its sidecar.

        Raises:
            VerificationError: ``peer_distrusted``; ``peer_untrusted``: who it was issued to can't be read.

        What this does *not* verify: anything else; it is for a chain that was verified, and has ended since.
        """
        if any(public_key_digest(certificate) in self._distrusted for certificate in chain):
            raise VerificationError("an authority in the peer's chain is distrusted", reason=Reason.PEER_DISTRUSTED)
        if chain and name_serial(chain[0].serial_number) in self._distrusted:
            raise EvictedError("the peer's sidecar was evicted", reason=Reason.PEER_DISTRUSTED)
        if chain and self._distrusted_instances:
            until = self._distrusted_instances.get(read_instance(chain[0]), -math.inf)
            if chain[0].not_valid_before_utc.timestamp() <= until:
                raise EvictedError("the peer's sidecar was evicted", reason=Reason.PEER_DISTRUSTED)

    def _verify_peer(self, chain: Sequence[x509.Certificate], *, now: float) -> tuple[VerifiedPeer, float]:
        leaf = chain[0]
        self.check_not_distrusted(chain)
        moment = datetime.datetime.fromtimestamp(now, tz=datetime.UTC)
        try:
            verified = self._builder.time(moment).build_client_verifier().verify(leaf, list(chain[1:])).chain
        except verification.VerificationError as error:
            signers = {certificate.issuer for certificate in chain}
            above = [root for root in self._roots if root.subject in signers]
            if any(not (c.not_valid_before_utc <= moment <= c.not_valid_after_utc) for c in (*chain, *above)):
                raise VerificationError(
                    "a certificate in the peer's chain is not valid now", reason=Reason.PEER_EXPIRED
                ) from error
            raise VerificationError(
                f"the peer's chain doesn't lead to a root in the trust bundle: {error}", reason=Reason.PEER_UNTRUSTED
            ) from error
        self.check_not_distrusted(verified)
        if len(verified) != 3 or verified[1].public_bytes(Encoding.DER) not in self._issuers:
            raise VerificationError("the peer's issuer isn't in the trust bundle", reason=Reason.PEER_UNTRUSTED)
        identity = check_leaf_profile(leaf)
        if identity.trust_domain != self.bundle.trust_domain:
            raise VerificationError("the peer belongs to another trust domain", reason=Reason.PEER_UNTRUSTED)
        peer = VerifiedPeer(
            identity=identity,
            not_after=min(certificate.not_valid_after_utc.timestamp() for certificate in verified),
            issuer=common_name(verified[1].subject),
            serial=leaf.serial_number,
            bundle_sequence=self.bundle.sequence,
            chain=tuple(chain),
        )
        return peer, max(certificate.not_valid_before_utc.timestamp() for certificate in verified)


def check_leaf_profile(leaf: x509.Certificate) -> Identity:
    """Check a leaf against the X509-SVID profile that Touchmark issues and return its identity.

    Raises:
        VerificationError: reason ``peer_untrusted``, with what is wrong.

    What this does *not* verify: signature, validity period, chain.
    """

    def fail(what: str) -> VerificationError:
        return VerificationError(f"the certificate violates the profile: {what}", reason=Reason.PEER_UNTRUSTED)

    try:
        # That none comes twice is checked where they are read. One walk: the library's search makes one for each.
        found = {type(each.value): each for each in leaf.extensions}
    except (x509.DuplicateExtension, ValueError) as error:
        raise fail(str(error)) from error

    def find(kind: type[_Kind]) -> x509.Extension[_Kind]:
        if (extension := found.get(kind)) is None:
            raise fail(f"it has no extension {kind.__name__}")
        return cast("x509.Extension[_Kind]", extension)

    san, usage = find(x509.SubjectAlternativeName), find(x509.KeyUsage)
    extended, constraints = find(x509.ExtendedKeyUsage).value, find(x509.BasicConstraints).value
    find(x509.AuthorityKeyIdentifier)
    find(x509.SubjectKeyIdentifier)
    names = list(san.value)
    if len(names) != 1 or not isinstance(names[0], x509.UniformResourceIdentifier):
        raise fail("exactly one URI SAN and nothing else is allowed")
    if not leaf.subject.rdns and not san.critical:
        raise fail("the SAN must be critical when the subject is empty")
    if constraints.ca:
        raise fail("a leaf must not be an authority")
    value = usage.value
    if not usage.critical or not value.digital_signature or value.key_cert_sign or value.crl_sign:
        raise fail("keyUsage must be critical, with digitalSignature and without keyCertSign and cRLSign")
    if set(extended) != _PURPOSES:
        raise fail("extendedKeyUsage must be serverAuth and clientAuth")
    try:
        key = leaf.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise fail(str(error)) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise fail("the key must be ECDSA P-256")
    try:
        return _parse_identity(names[0].value)
    except IdentityError as error:
        raise fail(error.message) from error


def read_instance(leaf: x509.Certificate) -> str:
    """Return the sidecar that a leaf was issued to, as its details extension says; empty: it doesn't say.

    Raises:
        VerificationError: ``peer_untrusted``: the extension can't be read. The CA writes none such.

    What this does *not* verify: that the CA has signed it. It must only ever restrict.
    """
    try:
        value = leaf.extensions.get_extension_for_oid(DETAILS_OID).value
        if not isinstance(value, x509.UnrecognizedExtension):
            raise ValueError("not an extension of ours")
        return msgspec.json.decode(_read_utf8_string(value.value), type=_Issued).instance
    except x509.ExtensionNotFound:
        return ""
    except (ValueError, x509.DuplicateExtension, msgspec.DecodeError) as error:
        raise VerificationError(f"the leaf's details can't be read: {error}", reason=Reason.PEER_UNTRUSTED) from error


class _Issued(msgspec.Struct, frozen=True, kw_only=True):
    instance: str = ""


def _read_utf8_string(der: bytes) -> bytes:
    """Return the content of a DER UTF8String (X.690, sections 8.1.3 and 8.23)."""
    if len(der) < 2 or der[0] != 0x0C:
        raise ValueError("no UTF8String")
    count = der[1] & 0x7F if der[1] & 0x80 else 0
    size = int.from_bytes(der[2 : 2 + count]) if count else der[1]
    if len(der) != 2 + count + size:
        raise ValueError("a UTF8String of another length")
    return der[2 + count :]


def common_name(name: x509.Name) -> str:
    """Return the name's first CN, or the whole name in RFC 4514 notation when it has none."""
    values = name.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(values[0].value) if values else name.rfc4514_string()
