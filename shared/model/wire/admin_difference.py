"""The admin API's question what other policies would change, and its answer; ``admin.py`` re-exports both. Pure."""

from __future__ import annotations

import msgspec

from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction


class DecidedOtherwise(msgspec.Struct, frozen=True, kw_only=True):
    """Equal connections that the proposed policies decide otherwise.

    Attributes:
        before, after: ``allow``, ``would deny`` or ``deny``: the stricter side's verdict by the current and by the
            proposed policies.
        side: whose sidecar decides it; ``reason`` and ``rule`` are its.
        path: of the reporter's own program, in its own words.
    """

    before: str
    after: str
    side: Direction
    reason: Reason
    rule: str
    source: str
    source_program: str
    destination: str
    destination_program: str
    port: int
    service: str
    path: str
    connections: int
    last_seen: float


class PolicyDifference(msgspec.Struct, frozen=True, kw_only=True):
    """What other policies change for connections that were seen.

    Attributes:
        namespaces: whose connections were looked at: those of the proposed documents.
        denied: decided more strictly; ``allowed``: less strictly. Most connections first.
        unchanged, unknown: how many connections; of the unknown ones the records don't say enough.
        unknowns: what else isn't known: records that were lost, or more than are looked at.
        since: seconds since the epoch: whole hours.
    """

    namespaces: tuple[str, ...]
    since: float
    denied: tuple[DecidedOtherwise, ...]
    allowed: tuple[DecidedOtherwise, ...]
    unchanged: int
    unknown: int
    unknowns: tuple[str, ...] = ()
