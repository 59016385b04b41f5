"""How a sidecar proves itself to the CA where it has no certificate: by a join token, once, or by its pod's token.

Belongs here: the two ways as two values of one shape, and what each reads when it dials. Doesn't: the stream
(``feed.py``), TLS (``ca_dial.py``), the third way, by a key that is kept (``renewing.py``). Files are read anew at each
dial: the kubelet renews both token and roots.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from shared.model.errors import InputError, UnavailableError
from shared.model.identity.identity import Workload, parse_workload
from shared.model.trust.join_token import JoinToken, format_join_token
from shared.model.wire.messages import Enrol, EnrolPod, Registration, Renew, Welcome
from sidecar.control.ca_dial import fetch_pinned_root
from sidecar.settings.parsing import read_small_file

MAX_ROOTS = 32
_MAX_TOKEN_BYTES = 16 * 1024
_MAX_TRUST_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    """What an opened stream brought along, before anything is said on it.

    Attributes:
        protocol: that was chosen.
        nonce: the CA's, as its header says it; None: it sent none.
        server_certificate: DER.
    """

    protocol: int
    nonce: str | None
    server_certificate: bytes


class Joining(Protocol):
    """One way to join.

    Attributes:
        is_repeatable: whether it works again at any time.
    """

    is_repeatable: ClassVar[bool]

    @property
    def can_heal(self) -> bool:
        """Tell whether it works again after the sidecar's certificate has ended."""

    @property
    def trust_domain(self) -> str:
        """The CA's."""

    @property
    def workload(self) -> Workload:
        """As whom the sidecar joins."""

    async def find_roots(
        self, ca: tuple[str, int], installed: tuple[bytes, ...], *, mark: int, timeout_s: float
    ) -> tuple[bytes, ...]:
        """Return the roots (DER) that the CA's server must lead to at this dial.

        Arguments:
            installed: the roots of the trust bundle in force; empty before the first welcome.

        Raises:
            UnavailableError: they can't be had now.
            VerificationError: the server isn't the CA.
        """

    async def introduce(self, csr: bytes, registration: Registration, greeting: Greeting) -> Enrol | EnrolPod | Renew:
        """Make the first message of an enrolment.

        Raises:
            UnavailableError: what it takes can't be had now.
            ProtocolError: the stream lacks what it takes.
        """

    async def keep(self, welcome: Welcome) -> None:
        """Keep what a welcome brings for the next time, before it is used.

        Raises:
            UnavailableError: it can't be kept; the welcome is given up then.
            CredentialError: it can't be used, and nothing of it is kept.
        """

    async def keep_roots(self, roots: tuple[bytes, ...]) -> None:
        """Keep the roots (DER) of another trust bundle for the next time.

        Raises:
            UnavailableError: they can't be kept.
        """


class _KeepsNothing:
    """What each dial takes comes from elsewhere."""

    __slots__ = ()

    async def keep(self, welcome: Welcome) -> None:
        """Nothing is kept."""

    async def keep_roots(self, roots: tuple[bytes, ...]) -> None:
        """Nothing is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ByJoinToken(_KeepsNothing):
    """A single-use token that pins the root's public key."""

    is_repeatable: ClassVar[bool] = False
    can_heal: ClassVar[bool] = False
    token: JoinToken = field(repr=False)

    @property
    def trust_domain(self) -> str:
        """The token's."""
        return self.token.trust_domain

    @property
    def workload(self) -> Workload:
        """The token's."""
        return parse_workload(self.token.workload)

    async def find_roots(
        self, ca: tuple[str, int], installed: tuple[bytes, ...], *, mark: int, timeout_s: float
    ) -> tuple[bytes, ...]:
        """Return the bundle's roots; before there is one, the root that the server shows and the token pins."""
        return installed or (await fetch_pinned_root(ca, self.token.root_pin, mark=mark, timeout_s=timeout_s),)

    async def introduce(self, csr: bytes, registration: Registration, greeting: Greeting) -> Enrol:
        """Send the token itself."""
        return Enrol(token=format_join_token(self.token), csr=csr, registration=registration)


@dataclass(frozen=True, slots=True, kw_only=True)
class ByPod(_KeepsNothing):
    """The pod's projected service account token, and the roots in a file that the CA keeps.

    Attributes:
        token_file: holds the token; the kubelet renews it.
        trust_file: PEM; the only roots trusted, at every dial.
        trust_domain: whose SPIFFE ID the CA's server must have.
        workload: what the downward API says; whether it is true is for the CA to find out.
    """

    is_repeatable: ClassVar[bool] = True
    can_heal: ClassVar[bool] = True
    token_file: Path
    trust_file: Path
    trust_domain: str
    workload: Workload

    async def find_roots(
        self, ca: tuple[str, int], installed: tuple[bytes, ...], *, mark: int, timeout_s: float
    ) -> tuple[bytes, ...]:
        """Return the file's current roots, whatever was installed: a CA that lost its keys has others."""
        return read_roots(self.trust_file)

    async def introduce(self, csr: bytes, registration: Registration, greeting: Greeting) -> EnrolPod:
        """Send the token's present text."""
        try:
            token = read_small_file(self.token_file, "service account token", _MAX_TOKEN_BYTES).strip()
        except InputError as error:
            raise UnavailableError(error.message, hint="the kubelet writes it") from error
        if not token:
            raise UnavailableError(f"the service account token's file {self.token_file} is empty")
        return EnrolPod(token=token, csr=csr, registration=registration)


def read_roots(path: Path) -> tuple[bytes, ...]:
    """Return the DER of every certificate in a PEM file. A few KiB of a mounted volume: read on the loop.

    Raises:
        UnavailableError: it can't be read, or holds no certificate: the CA may not have written it yet.
    """
    try:
        text = read_small_file(path, "trust", _MAX_TRUST_BYTES)
        certificates = x509.load_pem_x509_certificates(text.encode())
    except InputError as error:
        raise UnavailableError(error.message, hint="the CA keeps it in the namespace's ConfigMap") from error
    except ValueError as error:
        raise UnavailableError(f"the trust file {path} holds no certificates that can be read") from error
    if len(certificates) > MAX_ROOTS:
        raise UnavailableError(f"the trust file {path} holds more than {MAX_ROOTS} certificates")
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in certificates)
