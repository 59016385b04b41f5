"""Which replica leads: one Lease (coordination.k8s.io/v1), taken by compare-and-swap, kept by renewing. I/O.

Belongs here: taking, keeping, losing and giving back. Doesn't: what a leader does.

No two lead at once, whatever their clocks say: times in the Lease are for people. Who waits measures on its own clock
how long it has *seen* the same record; who leads measures from before its last renewal was sent, and stops at
``RENEW_DEADLINE_S``, long before anybody else may take over at ``LEASE_S``. (As client-go's ``leaderelection`` does.)

What this does *not* prevent: a write that the leader sent before it lost the Lease and that arrives late. All that a
leader writes is therefore either compare-and-swap or the same whoever writes it.
"""

from __future__ import annotations

import asyncio
import datetime
import random
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import structlog

from ca.kubernetes.api.client import ClusterClient
from shared.model.errors import ConflictError, NotFoundError, TouchmarkError
from shared.model.kubernetes.contract import LEASE, SYSTEM_NAMESPACE

LEASE_S: Final = 15.0
RENEW_DEADLINE_S: Final = 10.0
RETRY_S: Final = 2.0
CALL_S: Final = 4.0
RELEASE_S: Final = 3.0
MAX_LEASE_S: Final = 60.0  # Of another version's Lease: who holds it longer isn't believed.
_LEASES: Final = "/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
_log = structlog.get_logger("touchmark.ca")


class _Metadata(msgspec.Struct, omit_defaults=True):
    name: str = ""
    namespace: str = ""
    resource_version: str = msgspec.field(name="resourceVersion", default="")


class LeaseSpec(msgspec.Struct, omit_defaults=True, rename="camel"):
    """What a Lease says; times are RFC 3339 with microseconds, for people."""

    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class Lease(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The object, as far as it concerns us."""

    api_version: str = msgspec.field(name="apiVersion", default="coordination.k8s.io/v1")
    kind: str = "Lease"
    metadata: _Metadata
    spec: LeaseSpec


class Leadership:
    """One replica's part in the election.

    Arguments:
        identity: of this process, unlike any other's, also of the same pod's process before it.
        monotonic: a clock that only this process reads.
        may_lead: asked before it takes the Lease, and while it has it: it gives it back when it mustn't lead.
    """

    def __init__(
        self,
        client: ClusterClient,
        *,
        identity: str | None = None,
        namespace: str = SYSTEM_NAMESPACE,
        name: str = LEASE,
        monotonic: Callable[[], float] = time.monotonic,
        may_lead: Callable[[], bool] = lambda: True,
    ) -> None:
        self._may_lead = may_lead
        self.identity = identity or f"{socket.gethostname()[:63]}_{secrets.token_hex(8)}"
        self.holder = ""
        self._client = client
        self._namespace = namespace
        self._name = name
        self._monotonic = monotonic
        self._collection = _LEASES.format(namespace=namespace)
        self._held_until = float("-inf")
        self._lease: Lease | None = None  # As last seen, or as last written by us.
        self._seen_at = float("-inf")
        self._fault = ""

    @property
    def is_leader(self) -> bool:
        """Whether this replica leads at this moment; asked before each write of a leader."""
        return self._monotonic() < self._held_until

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Stand for election until cancelled; run ``work`` while this replica leads, and cancel it when it doesn't."""
        try:
            while True:
                if self._may_lead() and await self._try_to_take():
                    _log.info("leading", identity=self.identity)
                    await self._lead(work)
                    _log.info("not_leading", identity=self.identity)
                # Replicas that wait for the same Lease shouldn't ask at the same moment.
                await asyncio.sleep(RETRY_S * random.uniform(0.8, 1.2))
        finally:
            await self._release()

    async def _lead(self, work: Callable[[], Awaitable[None]]) -> None:
        worker = asyncio.ensure_future(work())
        try:
            while not worker.done() and self.is_leader and self._may_lead():
                await asyncio.wait([worker], timeout=min(RETRY_S, self._held_until - self._monotonic()))
                if not worker.done() and self.is_leader:
                    await self._renew()
        finally:
            worker.cancel()
            (result,) = await asyncio.gather(worker, return_exceptions=True)
        # The work ended by itself: perhaps another replica fares better with it.
        if isinstance(result, Exception):
            _log.error("leaders_work_failed", error=repr(result))
        await self._release()

    async def _renew(self) -> None:
        """Renew once. A failure leaves what there is: leading ends by itself when the time is over."""
        remaining = self._held_until - self._monotonic()
        try:
            async with asyncio.timeout(min(CALL_S, remaining)):
                try:
                    await self._write(self._lease, is_renewal=True)
                except ConflictError:
                    # Somebody wrote the Lease. Only its content says whether that was a takeover (by a replica for
                    # which we were silent too long) or somebody's annotation.
                    if await self._look(CALL_S) and self.holder == self.identity:
                        await self._write(self._lease, is_renewal=True)
                    elif self.holder != self.identity:
                        self._held_until = float("-inf")
        except NotFoundError:
            self._held_until = float("-inf")
        except (TouchmarkError, TimeoutError) as error:
            self._note_fault(error)

    async def _try_to_take(self) -> bool:
        """Take the Lease when no replica holds it, or its holder hasn't renewed it for as long as we looked."""
        try:
            if not await self._look(CALL_S):
                return False
            is_held = self.holder not in ("", self.identity)  # Ours: a writing whose answer got lost.
            if is_held and self._monotonic() - self._seen_at < self._patience_s():
                return False
            async with asyncio.timeout(CALL_S):
                await self._write(self._lease, is_renewal=False)
        except (ConflictError, NotFoundError):
            return False  # Another one was faster.
        except (TouchmarkError, TimeoutError) as error:
            self._note_fault(error)
            return False
        return self.is_leader

    def _patience_s(self) -> float:
        said = self._lease.spec.lease_duration_seconds if self._lease is not None else None
        return max(LEASE_S, min(float(said or 0), MAX_LEASE_S))

    async def _look(self, deadline_s: float) -> bool:
        """Read the Lease and note since when it says the same; False when it can't be read."""
        try:
            lease: Lease | None = await self._client.get(
                f"{self._collection}/{self._name}", Lease, deadline_s=deadline_s
            )
        except NotFoundError:
            lease = None
        except TouchmarkError as error:
            self._note_fault(error)
            return False
        self._fault = ""
        if lease is None or self._lease is None or lease.spec != self._lease.spec:
            self._seen_at = self._monotonic()
        self._lease = lease
        self.holder = (lease.spec.holder_identity if lease is not None else None) or ""
        return True

    async def _write(self, seen: Lease | None, *, is_renewal: bool) -> None:
        """Write ourselves into the Lease that was seen, and lead from before the request was sent."""
        began = self._monotonic()
        now = _format_time()
        before = seen.spec if seen is not None else LeaseSpec()
        spec = LeaseSpec(
            holder_identity=self.identity,
            lease_duration_seconds=int(LEASE_S),
            acquire_time=before.acquire_time if is_renewal else now,
            renew_time=now,
            lease_transitions=(before.lease_transitions or 0) + (seen is not None and not is_renewal),
        )
        await self._send(seen, spec)
        self._held_until = began + RENEW_DEADLINE_S
        self.holder, self._fault = self.identity, ""

    async def _send(self, seen: Lease | None, spec: LeaseSpec) -> None:
        metadata = _Metadata(name=self._name, namespace=self._namespace)
        lease = Lease(metadata=metadata, spec=spec)
        if seen is None:
            self._lease = await self._client.post(self._collection, lease, Lease, deadline_s=CALL_S)
        else:
            # A patch that names the version is a compare-and-swap, too, and keeps what others wrote beside the spec.
            metadata.resource_version = seen.metadata.resource_version
            self._lease = await self._client.patch(f"{self._collection}/{self._name}", lease, Lease, deadline_s=CALL_S)
        self._seen_at = self._monotonic()

    async def _release(self) -> None:
        """Give the Lease back, so that no replica waits for one that has ended."""
        held, self._held_until = self.is_leader, float("-inf")
        if not held or self._lease is None or self.holder != self.identity:
            return
        try:
            async with asyncio.timeout(RELEASE_S):
                try:
                    await self._send(self._lease, _release_spec(self._lease))
                except ConflictError:
                    # A renewal that was cancelled has reached the server all the same, or somebody annotated it.
                    if await self._look(CALL_S) and self.holder == self.identity:
                        await self._send(self._lease, _release_spec(self._lease))
        except (TouchmarkError, TimeoutError) as error:
            _log.warning("lease_not_released", error=str(error))
        self.holder = ""

    def _note_fault(self, error: Exception) -> None:
        """Log a failure when it is another one than the last: an API server may be away for hours."""
        fault = str(error) or type(error).__name__
        if fault != self._fault:
            self._fault = fault
            _log.warning("lease_unreachable", identity=self.identity, message=fault)


def _release_spec(held: Lease) -> LeaseSpec:
    return LeaseSpec(
        holder_identity="",
        lease_duration_seconds=1,  # Also a replica that reads times doesn't wait.
        acquire_time=held.spec.acquire_time,
        renew_time=_format_time(),
        lease_transitions=held.spec.lease_transitions,
    )


def _format_time() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def lease_path(namespace: str = SYSTEM_NAMESPACE, name: str = LEASE) -> str:
    """Return the Lease's path at the API server."""
    return f"{_LEASES.format(namespace=namespace)}/{name}"


__all__ = ["Leadership", "Lease", "LeaseSpec", "lease_path"]
