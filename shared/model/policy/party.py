"""One end of a connection as policy sees it: what is proven of it, and where it is. Pure."""

from __future__ import annotations

import msgspec

from shared.model.identity.foreign import ForeignIdentity
from shared.model.identity.identity import Workload
from shared.model.identity.program import Program
from shared.model.policy.cidr import Address
from shared.model.policy.reasons import Reason


class Party(msgspec.Struct, frozen=True, kw_only=True):
    """One end of a connection, as far as it is proven.

    Attributes:
        workload: proven by a certificate (or, on its own side, by the sidecar's own). None for a stranger.
        program: attested on its own side, proven by certificate on the other. None when there is none.
        address: where it is; None only in explanations that don't name one.
        listed: the workload that the directory lists at ``address``. Never grants anything.
        why_unidentified: why ``program`` is None, when the party is in the mesh and its sidecar said so;
            ``MTLS_UNAVAILABLE`` for a destination in the mesh that no tunnel reaches; without a workload
            ``CA_UNAVAILABLE`` for an address of which the CA didn't say who is there, ``HOST_NOT_RESOLVED`` for one
            that a rule's host may have: that didn't resolve.
        is_pending: the program isn't known *yet* (before a tunnel is dialled; without a workload: before a foreign peer
            is): rules that depend on it are taken to allow, and the caller decides again once it is known, before any
            byte flows.
        hosts: names of the judging namespace's egress rules that resolve to ``address``, by what the source's own
            sidecar has asked for; sorted.
        foreign: proven by a certificate of another trust domain; then there is neither workload nor program.

    Raises:
        ValueError: it is foreign and ours at once.
    """

    workload: Workload | None = None
    program: Program | None = None
    foreign: ForeignIdentity | None = None
    address: Address | None = None
    listed: Workload | None = None
    why_unidentified: Reason | None = None
    is_pending: bool = False
    hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.foreign is not None and (self.workload is not None or self.program is not None or self.is_pending):
            raise ValueError("a foreign party has no workload or program here")
