"""Is the CA alive, and can it do its work? Readiness signs a certificate, and says whether the store works. I/O.

A store that fails doesn't make the CA unready: taken out of its Service, it would no longer answer the webhook (so that
no pod that asks could be created) nor tell connected sidecars anything, and no other replica has another store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import msgspec
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec

from ca.authority.authorities import Authorities
from ca.authority.sign import MIN_LIFETIME_S, sign_server
from ca.kubernetes.view import ClusterView
from ca.metrics import Metrics
from ca.store.store import Store
from shared.model.errors import TouchmarkError
from shared.model.wire.admin import Health

CHECK_DEADLINE_S: Final = 5.0
# Strangers may ask: within this time they get the last answer, and cause no signature.
REMEMBER_S: Final = 1.0


class HealthEndpoint:
    """``/healthz``, ``/readyz`` and ``/metrics``, for sidecars' port and the admin API.

    Arguments:
        check_directory: raises where the data directory is gone; None: there is none.
        check_clock: raises where nothing is issued by this CA's clock: another replica has to serve.
    """

    def __init__(
        self,
        *,
        store: Store,
        authorities: Authorities,
        cluster: ClusterView,
        check_directory: Callable[[], None] | None,
        metrics: Metrics,
        clock: Callable[[], float],
        check_clock: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._authorities = authorities
        self._cluster = cluster
        self._check_directory = check_directory
        self._metrics = metrics
        self._clock = clock
        self._check_clock = check_clock
        self._checked_at = float("-inf")
        self._last = Health(status="unknown")
        self._checking = asyncio.Lock()

    def routes(self) -> list[web.RouteDef]:
        """Return the three routes."""
        return [
            web.get("/healthz", self.healthz),
            web.get("/readyz", self.readyz),
            web.get("/metrics", self.metrics),
        ]

    async def healthz(self, _request: web.Request) -> web.Response:
        """Answer: the event loop runs."""
        return _answer(Health(status="ok"))

    async def readyz(self, _request: web.Request) -> web.Response:
        """Answer 200 when a certificate could be signed just now, else 503; ``degraded`` when no row can be written."""
        async with self._checking:
            loop = asyncio.get_running_loop()
            if loop.time() - self._checked_at > REMEMBER_S:
                self._last = await self._check()
                self._checked_at = loop.time()
        return _answer(self._last)

    async def metrics(self, _request: web.Request) -> web.Response:
        """Answer the metrics in Prometheus' text format."""
        body = self._metrics.render()
        response = web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})
        response.force_close()
        return response

    async def _check(self) -> Health:
        checks = {
            "store": await self._check_store(),
            "sign": self._check_signing(),
            **self._check_data_directory(),
            **self._check_time(),
            **self._cluster.check_ready(),
        }
        failing = {name for name, fault in checks.items() if fault != "ok"}
        status = "ok" if not failing else "degraded" if failing == {"store"} else "failing"
        return Health(status=status, checks=checks)

    def _check_data_directory(self) -> Mapping[str, str]:
        """Return nothing where all is well."""
        if self._check_directory is None:
            return {}
        try:
            self._check_directory()
        except TouchmarkError as error:
            return {"directory": error.message}
        return {}

    def _check_time(self) -> Mapping[str, str]:
        """Return nothing where all is well."""
        try:
            self._check_clock()
        except TouchmarkError as error:
            return {"clock": error.message}
        return {}

    async def _check_store(self) -> str:
        try:
            async with asyncio.timeout(CHECK_DEADLINE_S):
                await self._store.check()
        except TimeoutError:
            return f"no answer in {CHECK_DEADLINE_S:g} s"
        except TouchmarkError as error:
            return error.message
        return "ok"

    def _check_signing(self) -> str:
        key = ec.generate_private_key(ec.SECP256R1())
        try:
            sign_server(
                self._authorities.active,
                key.public_key(),
                trust_domain=self._store.trust_domain,
                addresses=("127.0.0.1",),
                names=(),
                now=self._clock(),
                lifetime_s=MIN_LIFETIME_S,
            )
        except (TouchmarkError, ValueError) as error:
            return str(error)
        return "ok"


def _answer(health: Health) -> web.Response:
    response = web.Response(
        status=503 if health.status == "failing" else 200,
        body=msgspec.json.encode(health),
        content_type="application/json",
    )
    response.force_close()
    return response
