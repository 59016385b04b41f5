"""Where one outbound connection goes: to the address that was dialled, or to an endpoint of the Service behind it.

Belongs here: what one connection remembers of its Service (which endpoint it is at, which it tried), and whether it may
go to another one; for that the CA may be asked again. Doesn't: the choice itself (``service_endpoints.py``, pure),
dialling (``sidecar/outbound.py``).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.model.errors import UnavailableError
from shared.model.policy.reasons import Reason
from shared.model.wire.messages import ServiceEntry
from sidecar.connection.connection import Connection, Refused
from sidecar.routing.service_endpoints import Endpoints, NoEndpointError, describe_service, has_another
from sidecar.sockets.address import Endpoint
from sidecar.sockets.dial import DialError
from sidecar.tunnel.dial_failures import DialFailures

if TYPE_CHECKING:
    from sidecar.mesh.directory_cache import DirectoryCache
    from sidecar.pump.ends import PumpEnd

MAX_ENDPOINTS_TRIED = 3  # Of what is known here; as many again of what the CA says when it is asked again.
# What is answered at the address of an endpoint that has just gone: by its sidecar, or by who has the address now.
PERHAPS_GONE = frozenset({
    Reason.APPLICATION_UNREACHABLE, Reason.DESTINATION_NOT_SERVED, Reason.LISTENER_NOT_APPROVED, Reason.NO_LISTENER,
    Reason.LISTENERS_DIFFER, Reason.PEER_WORKLOAD_MISMATCH,
})  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Router:
    """What every route of this sidecar is found with.

    Attributes:
        failures: of dials, shared with the connector.
        tunnel_port: where a Service's endpoint has its sidecar, as far as is known before the directory is asked.
        timeout_s: how long the CA's answer is waited for.
    """

    directory: DirectoryCache
    endpoints: Endpoints
    failures: DialFailures
    tunnel_port: int
    timeout_s: float

    def choose(
        self, service: ServiceEntry, port: int, *, client: str, program: str, now: float, tried: list[Endpoint]
    ) -> Endpoint:
        """Return an endpoint of the Service; one that this program couldn't dial lately only where there is no other.

        Raises:
            NoEndpointError: there is none.
        """

        def has_failed(endpoint: Endpoint) -> bool:
            sidecar_there = (endpoint[0], self.tunnel_port)
            return self.failures.is_recent(sidecar_there, program=program, now=now) or self.failures.is_recent(
                endpoint, program=program, now=now
            )

        return self.endpoints.choose(service, port, client=client, now=now, tried=tried, has_failed=has_failed)

    async def refresh(self, address: str) -> None:
        """Ask the CA again who is at an address; that it doesn't answer changes nothing."""
        with suppress(UnavailableError, TimeoutError):
            async with asyncio.timeout(self.timeout_s):
                await self.directory.refresh(address)


class Route:
    """One connection's way.

    Attributes:
        dialled: the address and port that the program dialled.
        service: what the directory said of that address; None when it is no Service's.
        unprocessed: how the last turn ended. Where no application saw it, its early bytes go to the next endpoint.
    """

    __slots__ = ("_connection", "_may_try", "_router", "_tried", "_was_renewed", "dialled", "service", "unprocessed")

    def __init__(self, connection: Connection, router: Router) -> None:
        self._connection = connection
        self._router = router
        self._tried: list[Endpoint] = []
        self._may_try = MAX_ENDPOINTS_TRIED
        self._was_renewed = False
        self.dialled = connection.parties.destination_endpoint
        self.service: ServiceEntry | None = None
        self.unprocessed: PumpEnd | None = None

    @property
    def _program(self) -> str:
        return str(self._connection.parties.source.program or "")

    def take_endpoint(self, service: ServiceEntry, *, now: float) -> None:
        """Turn the connection to one of the Service's endpoints: from here on its address and port are the endpoint's.

        Arguments:
            now: the loop's time.

        Raises:
            Refused: the Service has no such port or no ready endpoint.
        """
        connection, self.service = self._connection, service
        connection.parties.service = f"{service.namespace}/{service.name}:{self.dialled[1]}"
        try:
            endpoint = self._router.choose(
                service,
                self.dialled[1],
                client=connection.parties.source_endpoint[0],
                program=self._program,
                now=now,
                tried=self._tried,
            )
        except NoEndpointError as error:
            raise Refused(Reason.DESTINATION_UNREACHABLE, str(error)) from error
        self._tried.append(endpoint)
        connection.parties.turn_to(endpoint)
        connection.tunnel = ""
        connection.detail = self.describe(connection.detail)

    async def leads_elsewhere(self, refusal: Refused) -> bool:
        """Tell whether the connection may go to another endpoint of its Service; nothing of it was processed yet.

        One that can't be dialled is passed over. The word of one that answers counts, unless it isn't the Service's any
        more, by what the CA says now: a pod whose program has ended before its sidecar, or an address that changed
        hands.
        """
        endpoint = self._connection.parties.destination_endpoint
        if self.service is None or self._connection.is_revoked:
            return False
        if isinstance(refusal.__cause__, DialError):
            self._router.failures.note(endpoint, program=self._program, now=asyncio.get_running_loop().time())
            return await self.has_another()
        if isinstance(refusal.__cause__, NoEndpointError):
            return await self.has_another()
        if refusal.reason in PERHAPS_GONE:
            await self._renew()
            return not self.is_listed(endpoint) and self.may_try_another()
        return False

    async def has_another(self) -> bool:
        """Tell whether the Service has another endpoint that this connection may try; ask the CA where none is left."""
        if self.service is not None and not self.may_try_another():
            await self._renew()
        return self.may_try_another()

    def may_try_another(self) -> bool:
        """Tell whether another endpoint of the Service is known here that this connection may try."""
        return (
            self.service is not None
            and len(self._tried) < self._may_try
            and has_another(self.service, self.dialled[1], self._tried)
        )

    def is_listed(self, endpoint: Endpoint) -> bool:
        """Tell whether the Service still has this endpoint for the port."""
        ports = () if self.service is None else self.service.ports
        return any(endpoint in each.endpoints for each in ports if each.port == self.dialled[1])

    async def _renew(self) -> None:
        """Ask the CA again who serves the Service, once a connection: what is known here is old after a lost stream.

        That there was nothing new is remembered for a while: a Service that is down is no load on the CA.
        """
        if self._was_renewed:
            return
        router, loop = self._router, asyncio.get_running_loop()
        entry = router.directory.get(self.dialled[0])
        if entry is None or entry.service == self.service:
            if router.failures.is_recent(self.dialled, now=loop.time()):
                return
            self._was_renewed = True
            await router.refresh(self.dialled[0])
            entry = router.directory.get(self.dialled[0])
        if entry is not None and entry.service is not None and entry.service != self.service:
            self.service, self._was_renewed = entry.service, True
            self._may_try = len(self._tried) + MAX_ENDPOINTS_TRIED
        else:
            router.failures.note(self.dialled, now=loop.time())

    def describe(self, detail: str) -> str:
        """Write a record's detail, with the Service in front."""
        name = "" if self.service is None else describe_service(self.service)
        if not detail or detail.startswith(name):
            return detail or name
        return f"{name}; {detail}"

    def explain(self, refusal: Refused) -> Refused:
        """Return the refusal with the Service in its detail."""
        if self.service is None:
            return refusal
        return Refused(refusal.reason, self.describe(refusal.detail or self._connection.detail))
