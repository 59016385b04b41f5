"""Where one outbound connection goes: to the address that was dialled, or to an endpoint of the Service behind it.

Belongs here: what one connection remembers of its Service: which endpoint it is at, which it tried. Doesn't: the choice
itself (``service_endpoints.py``, pure), dialling (``sidecar/outbound.py``). No I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.model.policy.evaluate import Party
from shared.model.policy.reasons import Reason
from shared.model.wire.messages import ServiceEntry
from sidecar.connection.connection import Connection, Refused
from sidecar.routing.service_endpoints import NoEndpointError, describe_service, has_another
from sidecar.sockets.address import Endpoint, parse_ip

if TYPE_CHECKING:
    from sidecar.parts import Sidecar
    from sidecar.pump.tunnel_pump import PumpEnd

MAX_ENDPOINTS_TRIED = 3  # Of what is known here; as many again of what the CA says when it is asked again.


class Route:
    """One connection's way.

    Attributes:
        dialled: the address and port that the program dialled.
        service: what the directory said of that address; None when it is no Service's.
        was_renewed: the CA was asked again who serves the Service.
        unprocessed: how the last turn ended. Where no application saw it, its early bytes go to the next endpoint.
    """

    __slots__ = ("_connection", "_may_try", "_tried", "dialled", "service", "unprocessed", "was_renewed")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._tried: list[Endpoint] = []
        self._may_try = MAX_ENDPOINTS_TRIED
        self.was_renewed = False
        self.dialled = connection.destination_endpoint
        self.service: ServiceEntry | None = None
        self.unprocessed: PumpEnd | None = None

    def take_endpoint(self, sidecar: Sidecar, service: ServiceEntry, *, now: float) -> None:
        """Turn the connection to one of the Service's endpoints: from here on its address and port are the endpoint's.

        Arguments:
            now: the loop's time.

        Raises:
            Refused: the Service has no such port or no ready endpoint.
        """
        connection, self.service = self._connection, service

        def has_failed(endpoint: Endpoint) -> bool:
            sidecar_there = (endpoint[0], sidecar.tunnel_port)
            return sidecar.pool.has_failed_lately(sidecar_there, now=now) or sidecar.pool.has_failed_lately(
                endpoint, now=now
            )

        try:
            endpoint = sidecar.endpoints.choose(
                service,
                self.dialled[1],
                client=connection.source_endpoint[0],
                now=now,
                tried=self._tried,
                has_failed=has_failed,
            )
        except NoEndpointError as error:
            raise Refused(Reason.DESTINATION_UNREACHABLE, str(error)) from error
        self._tried.append(endpoint)
        connection.destination_endpoint, connection.port = endpoint, endpoint[1]
        connection.destination = Party(address=parse_ip(endpoint[0]))
        # Nothing of an endpoint that couldn't be reached stays.
        connection.destination_identity = connection.peer = None
        connection.issuer = connection.tunnel = ""
        connection.detail = self.describe(connection.detail)

    def may_try_another(self) -> bool:
        """Tell whether the Service has another endpoint for this connection, of which nothing was processed yet."""
        return (
            self.service is not None
            and len(self._tried) < self._may_try
            and has_another(self.service, self.dialled[1], self._tried)
        )

    def is_listed(self, endpoint: Endpoint) -> bool:
        """Tell whether the Service still has this endpoint for the port."""
        ports = () if self.service is None else self.service.ports
        return any(endpoint in each.endpoints for each in ports if each.port == self.dialled[1])

    def renew(self, service: ServiceEntry) -> None:
        """Take what the CA says of the Service now: of its endpoints, so many may be tried as before."""
        self.service, self.was_renewed = service, True
        self._may_try = len(self._tried) + MAX_ENDPOINTS_TRIED

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
