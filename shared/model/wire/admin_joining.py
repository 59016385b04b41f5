"""The admin API's answers about join tokens, sidecars and evictions; re-exported by ``admin.py``. Pure."""

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


class SidecarView(_Answer, frozen=True):
    """One sidecar. ``connected``: its stream is open now. ``live``: that, or a certificate of it is unexpired.

    Attributes:
        clock_offset_s: by how much its clock was ahead of the CA's when it opened its last stream, to about a second;
            None: the sidecar or the CA is too old to say.
        evicted: when it was evicted; None: it wasn't.
        has_stopped: it said that it stops when it closed its last stream.
        second_count: how often another sidecar came under its name while it was alive, and was refused;
            ``second_at``: when last, ``second_from``: from which address.
        renewable_until: until when it may come back by its renewal key, if it isn't seen before; None: it can't.
    """

    instance: str
    workload: str
    addresses: tuple[str, ...]
    allowed_addresses: tuple[str, ...]
    labels: dict[str, str]
    tunnel_port: int
    version: str
    capture: str
    joined: float
    last_seen: float
    connected: bool
    live: bool
    installed_sequence: int
    namespace_versions: dict[str, int]
    clock_offset_s: float | None = None
    evicted: float | None = None
    has_stopped: bool = False
    second_count: int = 0
    second_at: float | None = None
    second_from: str = ""
    renewable_until: float | None = None


class SidecarList(_Answer, frozen=True):
    """By workload and instance."""

    sidecars: tuple[SidecarView, ...]


class EvictionRequest(_Request, frozen=True):
    """Evict a sidecar by its instance, or all of a workload (``namespace/service-account``).

    Attributes:
        dismiss: nobody is evicted: an eviction that a restore has undone may stay undone.
    """

    whom: str
    dismiss: bool = False


class Evicted(_Answer, frozen=True):
    """What was evicted.

    Attributes:
        certificates: how many are distrusted from now on; also those that ended in the last hour, for clocks that are
            behind.
        ends: when the last of them ends; 0: there was none.
        tokens: IDs of the workload's join tokens that were revoked with it.
        bundle_sequence: of the trust bundle that tells every sidecar.
        is_unknown: no such sidecar is in the store, which may lack it since a backup was restored: its name is barred.
    """

    instances: tuple[str, ...]
    certificates: int
    ends: float
    tokens: tuple[str, ...]
    bundle_sequence: int
    is_unknown: bool = False
