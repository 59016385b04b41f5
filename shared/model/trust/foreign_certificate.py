"""Chains of other trust domains: verified against that domain's roots, checked as X509-SVIDs, read as identities.

Belongs here: what makes a foreign leaf a proof. Doesn't: our own profile, which is stricter (``certificate.py``), TLS,
or what an identity may do (policy). Pure: the time is an argument.

Source: SPIFFE X509-SVID, sections 2 to 5; SPIFFE Trust Domain and Bundle, section 3; RFC 5280, section 6.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID

from shared.model.errors import IdentityError, InputError, VerificationError
from shared.model.identity.foreign import ForeignDomain, ForeignIdentity, parse_foreign_id
from shared.model.policy.reasons import Reason
from shared.model.trust.certificate import common_name

# Issuers nest (SPIRE below SPIRE below an organisation's own root), but not endlessly.
MAX_CHAIN_CERTIFICATES: Final = 6
MAX_PEM_BYTES: Final = 1024 * 1024
_Extension = TypeVar("_Extension", bound=x509.ExtensionType)
_PURPOSES: Final = frozenset({ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH})


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignPeer:
    """What a verified chain of another trust domain proves, and until when.

    Attributes:
        identity: of the leaf.
        not_after: the earliest end of any certificate in the chain, in seconds since the epoch.
        issuer: the common name of the leaf's issuer.
        roots: against which it was verified; other ones ask for a new verification.
        chain: the presented certificates, leaf first, for that.
    """

    identity: ForeignIdentity
    not_after: float
    issuer: str
    roots: tuple[bytes, ...]
    chain: tuple[x509.Certificate, ...]


class ForeignVerifier:
    """One domain's roots made ready to verify chains.

    Raises:
        ValueError: a root can't be parsed.
    """

    def __init__(self, domain: ForeignDomain) -> None:
        self.domain = domain
        roots = [x509.load_der_x509_certificate(der) for der in domain.roots]
        store = verification.Store(roots)
        self._builder = verification.PolicyBuilder().store(store).max_chain_depth(MAX_CHAIN_CERTIFICATES - 1)

    def verify_peer(self, chain: Sequence[x509.Certificate], *, now: float) -> ForeignPeer:
        """Verify a presented chain, leaf first, and return what it proves.

        Arguments:
            now: seconds since the epoch.

        Raises:
            VerificationError: with the reason ``peer_untrusted`` or ``peer_expired``.

        What this does *not* verify: that the peer holds the key (the TLS handshake does); that no certificate was
        revoked: SPIFFE knows short lives and changed bundles only; what identity it may be (policy does).
        """
        try:
            return self._verify_peer(chain, now=now)
        except (ValueError, UnsupportedAlgorithm) as error:
            # The peer chooses what it presents: a key or an extension that can't even be parsed is its fault.
            raise VerificationError(f"the peer's chain can't be read: {error}", reason=Reason.PEER_UNTRUSTED) from error

    def _verify_peer(self, chain: Sequence[x509.Certificate], *, now: float) -> ForeignPeer:
        name = self.domain.trust_domain
        if not chain or len(chain) > MAX_CHAIN_CERTIFICATES:
            raise VerificationError(
                "the peer sent no certificate chain, or one that is too long", reason=Reason.PEER_UNTRUSTED
            )
        leaf = chain[0]
        moment = datetime.datetime.fromtimestamp(now, tz=datetime.UTC)
        try:
            # An SVID's extended key usage, where there is one, names both purposes: one verifier serves both ends.
            verified = self._builder.time(moment).build_client_verifier().verify(leaf, list(chain[1:])).chain
        except verification.VerificationError as error:
            if any(not (c.not_valid_before_utc <= moment <= c.not_valid_after_utc) for c in chain):
                raise VerificationError(
                    f"a certificate in the chain of {name} is not valid now", reason=Reason.PEER_EXPIRED
                ) from error
            raise VerificationError(
                f"the chain doesn't lead to the roots of {name}: {error}", reason=Reason.PEER_UNTRUSTED
            ) from error
        identity = read_foreign_leaf(leaf)
        if identity.trust_domain != name:
            raise VerificationError(f"{identity} isn't in the trust domain {name}", reason=Reason.PEER_UNTRUSTED)
        return ForeignPeer(
            identity=identity,
            not_after=min(certificate.not_valid_after_utc.timestamp() for certificate in verified),
            issuer=common_name(verified[1].subject if len(verified) > 1 else leaf.issuer),
            roots=self.domain.roots,
            chain=tuple(chain),
        )


def read_foreign_leaf(leaf: x509.Certificate) -> ForeignIdentity:
    """Check a leaf as X509-SVID (sections 4 and 5.2) and return the identity that it claims.

    Raises:
        VerificationError: reason ``peer_untrusted``, with what is wrong.

    What this does *not* verify: signature, validity period, chain: until then the identity is a claim.
    """

    def fail(what: str) -> VerificationError:
        return VerificationError(f"the certificate is not an X509-SVID: {what}", reason=Reason.PEER_UNTRUSTED)

    try:
        extensions = leaf.extensions
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        usage = extensions.get_extension_for_class(x509.KeyUsage)
        constraints = _find(extensions, x509.BasicConstraints)
        purposes = _find(extensions, x509.ExtendedKeyUsage)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, ValueError) as error:
        raise fail(str(error)) from error
    # Other kinds of names may accompany it, such as DNS names.
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise fail(f"it has {len(uris)} URI SANs instead of one")
    if constraints is not None and constraints.ca:
        raise fail("a leaf must not be an authority")
    value = usage.value
    if not usage.critical or not value.digital_signature or value.key_cert_sign or value.crl_sign:
        raise fail("keyUsage must be critical, with digitalSignature and without keyCertSign and cRLSign")
    if purposes is not None and not frozenset(purposes) >= _PURPOSES:
        raise fail("extendedKeyUsage must name serverAuth and clientAuth")
    try:
        return parse_foreign_id(uris[0])
    except IdentityError as error:
        raise fail(error.message) from error


def parse_roots(trust_domain: str, pem: bytes) -> ForeignDomain:
    """Read a trust domain's roots from PEM, as ``spire-server bundle show`` or a CA's own file gives them.

    Raises:
        IdentityError: the name isn't a trust domain's.
        InputError: the text holds no certificates, or one that is no root.
    """
    if len(pem) > MAX_PEM_BYTES:
        raise InputError(f"a bundle has at most {MAX_PEM_BYTES} bytes")
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise InputError("it contains no readable PEM certificates", hint="-----BEGIN CERTIFICATE-----") from error
    roots = dict.fromkeys(certificate.public_bytes(Encoding.DER) for certificate in certificates)
    return check_roots(ForeignDomain(trust_domain=trust_domain, roots=tuple(roots)))


def check_roots(domain: ForeignDomain) -> ForeignDomain:
    """Return a domain unchanged when all its roots are authorities' certificates, and no other domain's.

    Raises:
        InputError: one isn't, or can't be read.

    What this does *not* verify: that they are valid now, and that they are the domain's: that is the operator's word.
    """
    for der in domain.roots:
        try:
            certificate = x509.load_der_x509_certificate(der)
        except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
            raise InputError(f"a root of {domain.trust_domain} can't be read: {error}") from error
        _check_root(certificate, domain.trust_domain)
    return domain


def _check_root(certificate: x509.Certificate, trust_domain: str) -> None:
    """Check one root; a certificate that is no authority's would vouch for itself.

    Raises:
        InputError: it isn't.
    """
    name = certificate.subject.rfc4514_string()[:160]
    try:
        constraints = _find(certificate.extensions, x509.BasicConstraints)
        uris = _find(certificate.extensions, x509.SubjectAlternativeName)
        certificate.public_key()
    except (x509.DuplicateExtension, UnsupportedAlgorithm, ValueError) as error:
        raise InputError(f"a certificate can't be read: {name}: {error}") from error
    if constraints is None or not constraints.ca:
        raise InputError(f"not a CA certificate: {name}", hint="give only the roots, without leaves and keys")
    for uri in uris.get_values_for_type(x509.UniformResourceIdentifier) if uris is not None else ():
        if uri.startswith("spiffe://") and uri.removeprefix("spiffe://").partition("/")[0] != trust_domain:
            raise InputError(f"{name} is a root of {uri[:160]}, not of {trust_domain}")


def _find(extensions: x509.Extensions, kind: type[_Extension]) -> _Extension | None:
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
