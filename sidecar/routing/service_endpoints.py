"""Which endpoint of a Kubernetes Service a connection goes to. Pure: time and randomness are arguments.

Belongs here: the choice among the ready endpoints of a port, session affinity, and what is remembered for it. Doesn't:
who is at an endpoint (``sidecar/mesh/directory_cache.py``) and dialling (``sidecar/outbound.py``).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection

from shared.model.wire.messages import ServiceEntry
from sidecar.sockets.address import Endpoint

MAX_REMEMBERED = 4096


class NoEndpointError(Exception):
    """The Service doesn't serve the port, or has no (further) endpoint for it; the message says which."""


class Endpoints:
    """Chooses endpoints, and remembers those of Services with ``sessionAffinity: ClientIP``.

    Arguments:
        draw: returns a random number from 0 up to, and without, its argument.
    """

    def __init__(self, draw: Callable[[int], int]) -> None:
        self._draw = draw
        # By Service, port and client: the endpoint, and when it was chosen last. Least recently chosen first.
        self._kept: OrderedDict[tuple[str, str, int, str], tuple[Endpoint, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def choose(
        self,
        service: ServiceEntry,
        port: int,
        *,
        client: str,
        now: float,
        tried: Collection[Endpoint] = (),
        has_failed: Callable[[Endpoint], bool],
    ) -> Endpoint:
        """Return a ready endpoint: the client's last one where the Service asks for that, else any, all alike.

        Arguments:
            port: the Service's.
            client: the address that affinity goes by.
            now: seconds of a clock that never goes back.
            tried: endpoints that this connection couldn't reach.
            has_failed: whether dialling an endpoint failed lately; such are taken only where there are no others.

        Raises:
            NoEndpointError: there is none.
        """
        endpoints = next((each.endpoints for each in service.ports if each.port == port), None)
        name = describe_service(service)
        if endpoints is None:
            raise NoEndpointError(f"{name} has no port {port}")
        key = (service.namespace, service.name, port, client)
        kept = self._find_kept(key, service.affinity_s, now) if service.affinity_s > 0 else None
        if kept is not None and kept in endpoints and kept not in tried and not has_failed(kept):
            return self._keep(key, kept, now)
        if not endpoints:
            raise NoEndpointError(f"{name} has no ready endpoint for port {port}")
        chosen = endpoints[self._draw(len(endpoints))]
        if chosen in tried or has_failed(chosen):  # Seldom: a Service may have thousands of endpoints.
            untried = [each for each in endpoints if each not in tried]
            if not untried:
                raise NoEndpointError(f"{name} has no endpoint for port {port} that answers")
            sound = [each for each in untried if not has_failed(each)] or untried
            chosen = sound[self._draw(len(sound))]
        return self._keep(key, chosen, now) if service.affinity_s > 0 else chosen

    def _find_kept(self, key: tuple[str, str, int, str], affinity_s: int, now: float) -> Endpoint | None:
        kept = self._kept.get(key)
        return kept[0] if kept is not None and now - kept[1] < affinity_s else None

    def _keep(self, key: tuple[str, str, int, str], endpoint: Endpoint, now: float) -> Endpoint:
        self._kept.pop(key, None)
        self._kept[key] = (endpoint, now)
        if len(self._kept) > MAX_REMEMBERED:
            self._kept.popitem(last=False)
        return endpoint


def has_another(service: ServiceEntry, port: int, tried: Collection[Endpoint]) -> bool:
    """Tell whether the port has a ready endpoint that wasn't tried."""
    return any(each not in tried for entry in service.ports if entry.port == port for each in entry.endpoints)


def describe_service(service: ServiceEntry) -> str:
    """Write ``service shop/api``."""
    return f"service {service.namespace}/{service.name}"
