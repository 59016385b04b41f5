"""Identities: workload + program, written as a SPIFFE ID.

``spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>/sha256/<hex>[/main/<hex|none>]`` for an approved program,
``…/sa/<service-account>/observed/sha256/<hex>…`` for an unapproved one (permissive mode only),
``…/sa/<service-account>/sidecar`` for a sidecar's own, ``spiffe://<trust-domain>/touchmark/ca`` for the CA's server.

Source: SPIFFE-ID document, section 2. Pure.
"""

from __future__ import annotations

import re
from enum import StrEnum
from functools import lru_cache

import msgspec

from shared.model.errors import IdentityError
from shared.model.identity.program import Program

_TRUST_DOMAIN = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,253}[a-z0-9])?")
_DNS_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_DNS_SUBDOMAIN = re.compile(rf"(?=.{{1,253}}\Z){_DNS_LABEL.pattern}(?:\.{_DNS_LABEL.pattern})*")
_MAX_SPIFFE_ID_BYTES = 2048  # SPIFFE-ID, section 2.3
# Each connection's record names identities that the one before named.
_REMEMBERED = 4096


class IdentityKind(StrEnum):
    """What a certificate's identity vouches for."""

    PROGRAM = "program"
    OBSERVED = "observed"
    SIDECAR = "sidecar"


class Workload(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """A namespace and a service account in it.

    Raises:
        IdentityError: a part isn't a Kubernetes name (RFC 1123 label; subdomain for the service account).
    """

    namespace: str
    service_account: str

    def __post_init__(self) -> None:
        check_namespace(self.namespace)
        check_service_account(self.service_account)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.service_account}"


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What one certificate vouches for: a workload and either a program or the workload's sidecar.

    Raises:
        IdentityError: a part is malformed, or kind and program contradict each other.
    """

    trust_domain: str
    workload: Workload
    kind: IdentityKind
    program: Program | None = None

    def __post_init__(self) -> None:
        check_trust_domain(self.trust_domain)
        if (self.program is None) != (self.kind is IdentityKind.SIDECAR):
            raise IdentityError("a program's identity names a program; a sidecar's own names none")

    def __str__(self) -> str:
        return format_spiffe_id(self)


def check_trust_domain(name: str) -> str:
    """Return the trust domain's name unchanged.

    Raises:
        IdentityError: it isn't a SPIFFE trust domain name (SPIFFE-ID, section 2.1).
    """
    if not _TRUST_DOMAIN.fullmatch(name):
        raise IdentityError(f"not a trust domain name: {name[:80]!r}")
    return name


def check_namespace(name: str) -> str:
    """Return the namespace's name unchanged.

    Raises:
        IdentityError: it isn't an RFC 1123 label.
    """
    if not _DNS_LABEL.fullmatch(name):
        raise IdentityError(
            f"not a namespace name: {name[:80]!r}", hint="lower-case letters, digits and '-', at most 63 characters"
        )
    return name


def check_service_account(name: str) -> str:
    """Return the service account's name unchanged.

    Raises:
        IdentityError: it isn't an RFC 1123 subdomain.
    """
    if not _DNS_SUBDOMAIN.fullmatch(name):
        raise IdentityError(f"not a service account name: {name[:80]!r}")
    return name


def parse_workload(text: str) -> Workload:
    """Read ``namespace/service-account``.

    Raises:
        IdentityError: the text has another shape.
    """
    namespace, slash, service_account = text.partition("/")
    if not slash:
        raise IdentityError(f"not a workload: {text[:160]!r}", hint="write NAMESPACE/SERVICE-ACCOUNT, such as shop/web")
    return Workload(namespace=namespace, service_account=service_account)


@lru_cache(maxsize=_REMEMBERED)
def format_spiffe_id(identity: Identity) -> str:
    """Write the identity as its SPIFFE ID."""
    base = f"spiffe://{identity.trust_domain}/ns/{identity.workload.namespace}/sa/{identity.workload.service_account}"
    if identity.program is None:
        return f"{base}/sidecar"
    observed = "/observed" if identity.kind is IdentityKind.OBSERVED else ""
    main = f"/main/{identity.program.main}" if identity.program.main else ""
    return f"{base}{observed}/sha256/{identity.program.digest}{main}"


def format_ca_id(trust_domain: str) -> str:
    """Write the SPIFFE ID of the CA's own server."""
    return f"spiffe://{check_trust_domain(trust_domain)}/touchmark/ca"


def parse_spiffe_id(text: str) -> Identity:
    """Read an identity that Touchmark issued. Only the exact spelling is accepted: no escapes, no empty segments.

    Raises:
        IdentityError: the text isn't such a SPIFFE ID. A foreign peer's ID is refused here, too.
    """
    if len(text) > _MAX_SPIFFE_ID_BYTES or not text.startswith("spiffe://"):
        raise IdentityError(f"not a SPIFFE ID: {text[:160]!r}")
    trust_domain, _, path = text[len("spiffe://") :].partition("/")
    match path.split("/"):
        case ["ns", namespace, "sa", account, "sidecar"]:
            kind, program = IdentityKind.SIDECAR, None
        case ["ns", namespace, "sa", account, "observed", "sha256", digest]:
            kind, program = IdentityKind.OBSERVED, Program(digest=digest)
        case ["ns", namespace, "sa", account, "observed", "sha256", digest, "main", main] if main:
            kind, program = IdentityKind.OBSERVED, Program(digest=digest, main=main)
        case ["ns", namespace, "sa", account, "sha256", digest]:
            kind, program = IdentityKind.PROGRAM, Program(digest=digest)
        case ["ns", namespace, "sa", account, "sha256", digest, "main", main] if main:
            kind, program = IdentityKind.PROGRAM, Program(digest=digest, main=main)
        case _:
            raise IdentityError(f"not an identity that Touchmark issues: {text[:160]!r}")
    return Identity(
        trust_domain=trust_domain,
        workload=Workload(namespace=namespace, service_account=account),
        kind=kind,
        program=program,
    )
