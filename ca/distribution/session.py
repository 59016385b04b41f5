"""One authenticated sidecar stream, as the rest of the CA sees it. No I/O: the stream's handler reads and writes.

Belongs here: who the sidecar is, what it subscribed to, what waits for it, and that its stream has to end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass, field

from ca.distribution.outbox import Outbox, OutboxFullError
from ca.store.records import JoinGrant
from shared.model.errors import RefusedError
from shared.model.identity.identity import Workload
from shared.model.wire.messages import ConnectionsReport, FromCA, encode_message, express_in
from shared.model.wire.protocol import PROTOCOL

MAX_NAMESPACES = 1024
MAX_ADDRESSES = 4096


@dataclass(slots=True, kw_only=True, eq=False)
class Session:
    """One sidecar's stream.

    Attributes:
        namespaces: whose states it gets, at most ``MAX_NAMESPACES``, each with the newest version queued for it.
        addresses: whose entries it watches; beyond ``MAX_ADDRESSES`` it gets every change (``watches_all``) instead of
            missing one, since a missed change could mean plaintext to a peer that has joined the mesh.
        acknowledged: what it has installed and the store knows: versions by namespace; by an empty name the sequence of
            the bundle. What is said again costs nothing.
        reports: requests for live connections that it hasn't answered.
        has_stopped: the sidecar closed the stream because it stops.
        is_read: False while the CA works on a message, and reads no further one.
        ended: why the CA ends the stream; set once.
        protocol: of the stream; a message that isn't in it isn't sent.
        grant: of a pod's sidecar, by which its pod is looked up again; None outside a cluster.
    """

    instance: str
    workload: Workload
    opened: float
    grant: JoinGrant | None = None
    protocol: int = PROTOCOL
    outbox: Outbox = field(default_factory=Outbox)
    namespaces: dict[str, int] = field(default_factory=dict)
    addresses: set[str] = field(default_factory=set)
    watches_all: bool = False
    acknowledged: dict[str, int] = field(default_factory=dict)
    reports: dict[int, asyncio.Future[ConnectionsReport]] = field(default_factory=dict)
    has_stopped: bool = False
    is_read: bool = True
    ended: asyncio.Future[str] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def pod_uid(self) -> str:
        """Of the sidecar's pod; empty outside a cluster."""
        return self.grant.pod_uid if self.grant is not None else ""

    def send(self, message: FromCA, *, key: Hashable = None) -> None:
        """Queue a message; a full outbox ends the stream."""
        if (known := express_in(self.protocol, message, reader=self.workload)) is not None:
            self.send_encoded(encode_message(known), key=key)

    def send_encoded(self, data: bytes, *, key: Hashable = None) -> None:
        """Queue what ``encode_message`` gave: encoded once for all subscribers of a protocol."""
        try:
            self.outbox.put(data, key=key)
        except OutboxFullError:
            self.end("slow")

    def end(self, why: str) -> None:
        """Ask the stream's handler to close it. The first reason stays."""
        if not self.ended.done():
            self.ended.set_result(why)

    def add_namespace(self, namespace: str) -> None:
        """Remember a subscription.

        Raises:
            RefusedError: there are too many.
        """
        if namespace not in self.namespaces and len(self.namespaces) >= MAX_NAMESPACES:
            raise RefusedError(f"a sidecar subscribes to at most {MAX_NAMESPACES} namespaces")
        self.namespaces.setdefault(namespace, -1)

    def is_newer(self, namespace: str, version: int) -> bool:
        """Note that a state of this version is about to be queued; False when a newer one already is."""
        if version <= self.namespaces.get(namespace, -1):
            return False
        self.namespaces[namespace] = version
        return True

    def add_address(self, address: str) -> frozenset[str]:
        """Watch an address or, past the bound, all of them; return those that no longer need watching by name."""
        self.addresses.add(address)
        if len(self.addresses) <= MAX_ADDRESSES:
            return frozenset()
        dropped = frozenset(self.addresses)
        self.watches_all = True
        self.addresses.clear()
        return dropped
