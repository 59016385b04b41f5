"""The admin API's answers about join tokens and evictions; ``admin.py`` has the others, and re-exports these. Pure."""

from __future__ import annotations

import msgspec


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    pass


class _Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    pass


class JoinTokenView(_Answer, frozen=True):
    """A token without its secret. ``state``: ``open``, ``spent`` or ``expired``."""

    token_id: str
    workload: str
    addresses: tuple[str, ...]
    state: str
    created: float
    expires: float
    instance: str = ""


class JoinTokenList(_Answer, frozen=True):
    """Newest first."""

    tokens: tuple[JoinTokenView, ...]


class EvictionRequest(_Request, frozen=True):
    """Evict a sidecar by its instance, or all of a workload (``namespace/service-account``)."""

    whom: str


class Evicted(_Answer, frozen=True):
    """What was evicted.

    Attributes:
        certificates: how many unexpired ones are distrusted from now on.
        ends: when the last of them ends; 0: there was none.
        tokens: IDs of the workload's join tokens that were revoked with it.
        bundle_sequence: of the trust bundle that tells every sidecar.
    """

    instances: tuple[str, ...]
    certificates: int
    ends: float
    tokens: tuple[str, ...]
    bundle_sequence: int
