"""The admin API's answers about other trust domains; ``admin.py`` has the others, and re-exports these. Pure."""

from __future__ import annotations

import msgspec


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    pass


class _Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    pass


class ForeignDomainRequest(_Request, frozen=True):
    """Add a trust domain with these roots (DER), or replace its roots."""

    roots: tuple[bytes, ...]


class ForeignRootView(_Answer, frozen=True):
    """One root; ``fingerprint``: SHA-256 of its DER in hexadecimal."""

    subject: str
    fingerprint: str
    not_after: float


class ForeignDomainView(_Answer, frozen=True):
    """One other trust domain."""

    trust_domain: str
    roots: tuple[ForeignRootView, ...]
    changed: float


class ForeignDomainList(_Answer, frozen=True):
    """The trust domains that are known beside ``own``, by name; ``own_roots`` (DER): what to give to partners."""

    own: str
    own_roots: tuple[bytes, ...]
    domains: tuple[ForeignDomainView, ...]
