"""Admin endpoints about other trust domains: which are known, and by which roots. I/O through the services."""

from __future__ import annotations

import hashlib

from aiohttp import web
from cryptography import x509

from ca.api.answers import answer, read_body
from ca.runtime.services import Services
from ca.store.foreign_table import ForeignRecord
from shared.model.identity.foreign import ForeignDomain
from shared.model.wire import admin


class ForeignAdmin:
    """The handlers. Pushes to sidecars follow by themselves."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.get("/v1/foreign-domains", self.domains),
            web.put("/v1/foreign-domains/{domain}", self.put),
            web.delete("/v1/foreign-domains/{domain}", self.remove),
        ]

    async def domains(self, _request: web.Request) -> web.Response:
        """Answer the trust domains that are known."""
        return await self._answer()

    async def put(self, request: web.Request) -> web.Response:
        """Know a trust domain by these roots, in the place of those that it had."""
        wanted = await read_body(request, admin.ForeignDomainRequest)
        domain = ForeignDomain(trust_domain=request.match_info["domain"], roots=wanted.roots)
        await self._services.foreign.put(domain, now=self._services.clock())
        return await self._answer()

    async def remove(self, request: web.Request) -> web.Response:
        """Forget a trust domain."""
        await self._services.foreign.remove(request.match_info["domain"])
        return await self._answer()

    async def _answer(self) -> web.Response:
        records = await self._services.store.list_foreign_domains()
        own = self._services.authorities.bundle()
        domains = tuple(_view(record) for record in records)
        return answer(admin.ForeignDomainList(own=own.trust_domain, own_roots=own.roots, domains=domains))


def _view(record: ForeignRecord) -> admin.ForeignDomainView:
    return admin.ForeignDomainView(
        trust_domain=record.domain.trust_domain,
        roots=tuple(_view_root(der) for der in record.domain.roots),
        changed=record.changed,
    )


def _view_root(der: bytes) -> admin.ForeignRootView:
    certificate = x509.load_der_x509_certificate(der)
    return admin.ForeignRootView(
        subject=certificate.subject.rfc4514_string(),
        fingerprint=hashlib.sha256(der).hexdigest(),
        not_after=certificate.not_valid_after_utc.timestamp(),
    )
