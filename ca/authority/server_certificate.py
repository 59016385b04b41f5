"""The CA's own TLS server: certificates, keys and contexts, renewed while connections run. Reads no file, writes none.

The listening socket keeps one context for ever; its SNI callback (called for every handshake, also without a name)
swaps in the newest, so that a renewal or a changed trust bundle needs no new listener. The key exists in memory only:
OpenSSL's loader wants a file, and gets a memfd that is closed at once.

While a root is rotated there is a certificate below each root of the bundle. A client that says which roots it knows
(``shared/model/trust/root_hint.py``) gets one that leads there, others the active root's, once they can know it.

What this does *not* verify: client certificates beyond their chain to an issuer of ours. They are optional in the
handshake; code that relies on one verifies it again, against the current bundle (``ca/authenticate``).
"""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ca.authority.authorities import Authorities, ServerSigner
from ca.authority.published_roots import PublishedRoots
from ca.authority.sign import sign_server
from ca.authority.truncation import log_truncation
from ca.store.records import BACKDATED_S, AuthorityKind
from shared.model.errors import InputError, UnavailableError
from shared.model.trust.root_hint import is_hinted, parse_root_hint

LIFETIME_S: Final = 86_400.0

_log = structlog.get_logger("touchmark.ca")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Served:
    """One certificate (DER) in service: below which root (DER, and the SHA-256 of its key), and until when."""

    certificate: bytes
    root: bytes
    pin: str
    context: ssl.SSLContext
    not_after: float


class ServerCertificate:
    """The CA's server credential and the contexts that serve it.

    Arguments:
        host: on which it listens; a wildcard address stands for the loopback addresses and ``localhost``.
        names: further IP addresses and DNS names.
        published: whether a client that doesn't say what it knows can know a root by now; in a cluster that is the
            API server, which asks the webhook.

    Attributes:
        context: the listening socket's.
        not_after: end of the certificate below the active root, in seconds since the epoch.

    Raises:
        InputError: a name can't stand in a certificate.
    """

    def __init__(
        self,
        authorities: Authorities,
        *,
        trust_domain: str,
        host: str,
        names: Sequence[str],
        published: PublishedRoots,
    ) -> None:
        self._authorities = authorities
        self._published = published
        self._trust_domain = trust_domain
        self._addresses, self._names = _split_names(host, names)
        self._served: tuple[_Served, ...] = ()
        self._former: tuple[_Served, ...] = ()
        self._issuer = ""
        self._bundle_sequence = -1
        self._renew_at = 0.0
        self._renewed = 0.0
        self.not_after = 0.0
        self.context = _make_context()
        self.context.sni_callback = self._choose

    def is_due(self, *, now: float) -> bool:
        """Half of its life is over, another authority signs, the trust bundle has changed, or the clock was set back.

        One that was made by a clock that was ahead begins in the future: nobody would take it until then.
        """
        return (
            now >= self._renew_at
            or now < self._renewed - BACKDATED_S / 2
            or self._issuer != self._authorities.active.authority_id
            or self._bundle_sequence != self._authorities.bundle().sequence
        )

    def renew(self, *, now: float) -> None:
        """Make new keys and certificates, below each root of the bundle, and serve them from the next handshake on.

        Raises:
            UnavailableError: the active authority has ended, or nearly.
        """
        bundle = self._authorities.bundle()
        # Sidecars show their own certificate alone. Who comes with one of an issuer that is trusted no more is let in
        # to be told so: as when it showed the issuer, too.
        records = self._authorities.snapshot.records
        roots = {r.authority_id for r in records if r.certificate in bundle.roots}
        known = (r for r in records if r.kind is AuthorityKind.ISSUING and r.root_id in roots and now < r.not_after)
        trusted = (*bundle.roots, *(each.certificate for each in known))
        served: list[_Served] = []
        for signer in self._authorities.snapshot.server_signers:
            try:
                served.append(self._make(signer, trusted, now=now))
            except UnavailableError as error:
                if not served:
                    raise
                _log.warning("server_certificate_not_made", root=signer.root.authority_id, message=error.message)
        self._former, self._served = self._served, tuple(served)
        self._issuer = self._authorities.active.authority_id
        self._bundle_sequence = bundle.sequence
        self.not_after = served[0].not_after
        self._renewed = now
        self._renew_at = now + (min(each.not_after for each in served) - now) / 2

    def find_certificate(self, context: ssl.SSLContext) -> bytes | None:
        """Return the certificate (DER) that a connection of this context was shown; None: it is too old to be known."""
        return next((each.certificate for each in (*self._served, *self._former) if each.context is context), None)

    def _make(self, signer: ServerSigner, trusted: Sequence[bytes], *, now: float) -> _Served:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = sign_server(
            signer.issuer,
            key.public_key(),
            trust_domain=self._trust_domain,
            addresses=self._addresses,
            names=self._names,
            now=now,
            lifetime_s=LIFETIME_S,
        )
        end = certificate.not_valid_after_utc.timestamp()
        log_truncation(signer.issuer.authority_id, now=now, lifetime_s=LIFETIME_S, end=end)
        context = _make_context()
        # Leaf, issuer and root: a joining sidecar knows only the root's pin and takes the root from here.
        chain = [certificate.public_bytes(Encoding.DER), *signer.chain]
        _load_key(context, key, chain)
        for der in trusted:
            context.load_verify_locations(cadata=der)
        if not self._served:
            _load_key(self.context, key, chain)  # Lest OpenSSL finds no shared cipher before the callback is asked.
        return _Served(
            certificate=chain[0],
            root=signer.root.certificate,
            pin=signer.root.public_key_digest,
            context=context,
            not_after=end,
        )

    def _choose(self, connection: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        if not self._served:
            return
        hints = parse_root_hint(name)
        hinted = (served for served in self._served if is_hinted(served.pin, hints))
        known = (served for served in self._served if self._published.is_known(served.root))
        connection.context = next(hinted, next(known, self._served[0])).context


def _make_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0  # A resumed session would skip the check against the current bundle.
    context.verify_mode = ssl.CERT_OPTIONAL
    # Each issuer that is loaded is one of a root of the bundle: who signed it isn't verified anew in each handshake.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def _load_key(context: ssl.SSLContext, key: ec.EllipticCurvePrivateKey, chain: Sequence[bytes]) -> None:
    pem = [key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())]
    pem += [ssl.DER_cert_to_PEM_cert(der).encode() for der in chain]
    descriptor = os.memfd_create("touchmark-ca", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(b"".join(pem))
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _split_names(host: str, names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    addresses: dict[str, None] = {}
    dns: dict[str, None] = {}
    for name in (host, *names):
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            dns[name.lower()] = None
            continue
        if address.is_unspecified:
            addresses |= {"127.0.0.1": None, "::1": None}
            dns["localhost"] = None
        else:
            addresses[str(address)] = None
    for name in dns:
        try:
            x509.DNSName(name)
        except ValueError as error:
            raise InputError(f"not a DNS name: {name[:120]!r}", hint="IP addresses and ASCII names only") from error
    return tuple(addresses), tuple(dns)
