"""SPIFFE peers of other trust domains: their identities, how rules name them, and the roots that they are known by.

Belongs here: frozen values and their notation. Doesn't: verifying a chain
(``shared/model/trust/foreign_certificate.py``), or what a rule matches (``shared/model/policy/evaluate.py``). Pure.
What is of our own trust domain is ``identity.py``'s.

Source: SPIFFE-ID document, section 2; X509-SVID, section 2.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from shared.model.errors import IdentityError, InputError
from shared.model.identity.identity import check_trust_domain

MAX_ID_BYTES: Final = 2048  # SPIFFE-ID, section 2.3
# Of a rule; the API server bounds the cost of a policy's checks by it (manifests/crds says the same).
MAX_PATTERN_BYTES: Final = 512
MAX_DOMAINS: Final = 64
MAX_ROOTS: Final = 16  # Of one domain.
MAX_ROOT_BYTES: Final = 8192
MAX_TOTAL_BYTES: Final = 256 * 1024  # Of all domains' roots together: every welcome holds them, and every context.
_SCHEME: Final = "spiffe://"
_SEGMENT: Final = re.compile(r"[A-Za-z0-9._-]+")
_ANY: Final = "/*"


class ForeignIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """A peer of another trust domain: its SPIFFE ID, of which only the trust domain has a meaning here.

    Attributes:
        path: with its leading slash; never empty, as only signing certificates have none (X509-SVID, section 2).

    Raises:
        IdentityError: a part is malformed.
    """

    trust_domain: str
    path: str

    def __post_init__(self) -> None:
        check_trust_domain(self.trust_domain)
        _check_path(self.path)
        if len(str(self)) > MAX_ID_BYTES:
            raise IdentityError(f"a SPIFFE ID has at most {MAX_ID_BYTES} bytes")

    def __str__(self) -> str:
        return f"{_SCHEME}{self.trust_domain}{self.path}"


class ForeignDomain(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One other trust domain and its roots.

    Attributes:
        roots: DER certificates, 1 to ``MAX_ROOTS``.

    Raises:
        IdentityError: the name isn't a trust domain's.
        InputError: there is no root, or there are too many or too large ones.
    """

    trust_domain: str
    roots: tuple[bytes, ...]

    def __post_init__(self) -> None:
        check_trust_domain(self.trust_domain)
        if not 1 <= len(self.roots) <= MAX_ROOTS or any(len(each) > MAX_ROOT_BYTES for each in self.roots):
            raise InputError(
                f"{self.trust_domain}: 1 to {MAX_ROOTS} roots of at most {MAX_ROOT_BYTES} bytes each are allowed"
            )


def parse_foreign_id(text: str) -> ForeignIdentity:
    """Read a leaf's SPIFFE ID, whatever its path. Only the exact spelling is accepted: no escapes, no empty segments.

    Raises:
        IdentityError: it isn't one.

    What this does *not* verify: that its trust domain isn't our own.
    """
    if len(text) > MAX_ID_BYTES or not text.startswith(_SCHEME):
        raise IdentityError(f"not a SPIFFE ID: {text[:160]!r}")
    trust_domain, slash, path = text[len(_SCHEME) :].partition("/")
    return ForeignIdentity(trust_domain=trust_domain, path=slash + path)


def check_id_pattern(text: str) -> str:
    """Return a rule's ``spiffeID`` unchanged: an ID, or one whose last segment is ``*``, for everything below it.

    Raises:
        InputError: it is neither.
    """
    hint = "write spiffe://DOMAIN/PATH; a last segment * means everything below, such as spiffe://DOMAIN/*"
    if len(text) > MAX_PATTERN_BYTES:
        raise InputError(f"a rule's spiffeID has at most {MAX_PATTERN_BYTES} characters", hint=hint)
    # A prefix always ends at a segment's border: `…/web*` would also match `…/webmaster`, which isn't intended.
    exact = f"{text[: -len(_ANY)]}/any" if text.endswith(_ANY) else text
    try:
        parse_foreign_id(exact)
    except IdentityError as error:
        raise InputError(error.message.replace(repr(exact), repr(text)), hint=hint) from error
    return text


def pattern_domain(pattern: str) -> str:
    """Return the trust domain that a checked pattern names."""
    return pattern[len(_SCHEME) :].partition("/")[0]


def is_matched(pattern: str, identity: ForeignIdentity) -> bool:
    """Return whether a checked pattern matches this identity."""
    spiffe_id = str(identity)
    if pattern.endswith(_ANY):
        return spiffe_id.startswith(pattern[:-1])
    return spiffe_id == pattern


def _check_path(path: str) -> None:
    if not path.startswith("/"):
        raise IdentityError("a SPIFFE ID without a path doesn't name a workload")
    for segment in path[1:].split("/"):
        if not _SEGMENT.fullmatch(segment) or segment in (".", ".."):
            raise IdentityError(f"not a SPIFFE ID path: {path[:160]!r}")
