"""Admin endpoints about other trust domains: which are known, and by which roots. I/O through the store."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from aiohttp import web
from cryptography import x509

from ca.api.admin.answers import answer, read_body
from ca.authority.authorities import Authorities
from ca.distribution.foreign_trust import ForeignTrust
from ca.store.foreign_domains import ForeignRecord
from ca.store.store import Store
from shared.model.identity.foreign import ForeignDomain
from shared.model.wire import admin


class ForeignAdmin:
    """The handlers. Pushes to sidecars follow by themselves."""

    def __init__(
        self, *, store: Store, authorities: Authorities, foreign: ForeignTrust, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._authorities = authorities
        self._foreign = foreign
        self._clock = clock

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
        await self._foreign.put(domain, now=self._clock())
        return await self._answer()

    async def remove(self, request: web.Request) -> web.Response:
        """Forget a trust domain."""
        await self._foreign.remove(request.match_info["domain"])
        return await self._answer()

    async def _answer(self) -> web.Response:
        records = await self._store.foreign.list_all()
        own = self._authorities.bundle()
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
