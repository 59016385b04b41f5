"""Admin endpoints about sidecars: join tokens, and which have joined. I/O through the store."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from ca.api.admin.answers import answer, read_body
from ca.authority.authorities import Authorities
from ca.distribution.database_clock import DatabaseClock
from ca.distribution.hub import Hub
from ca.settings.configuration import parse_endpoint
from ca.store.evictions import Eviction
from ca.store.store import Store
from shared.model.errors import InputError
from shared.model.identity.identity import parse_workload
from shared.model.trust.join_token import JoinToken, format_join_token
from shared.model.wire import admin
from shared.model.wire.registration import check_instance


class SidecarsAdmin:
    """The handlers.

    Arguments:
        listen: ``host:port`` at which sidecars find this CA, unless a request names another address.
        renewal_grace_s: for how long after its last certificate's end a sidecar may come back by its renewal key.
    """

    def __init__(
        self,
        *,
        store: Store,
        authorities: Authorities,
        hub: Hub,
        clock: Callable[[], float],
        database_clock: DatabaseClock,
        listen: str,
        renewal_grace_s: float = 0.0,
    ) -> None:
        self._store = store
        self._authorities = authorities
        self._hub = hub
        self._clock = clock
        self._database_clock = database_clock
        self._listen = listen
        self._renewal_grace_s = renewal_grace_s

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.get("/v1/join-tokens", self.join_tokens),
            web.post("/v1/join-tokens", self.create_join_token),
            web.delete("/v1/join-tokens/{id}", self.revoke_join_token),
            web.get("/v1/sidecars", self.sidecars),
            web.post("/v1/evictions", self.evict),
        ]

    async def join_tokens(self, _request: web.Request) -> web.Response:
        """Answer all join tokens, without their secrets."""
        now = self._clock()
        return answer(
            admin.JoinTokenList(
                tokens=tuple(
                    admin.JoinTokenView(
                        token_id=token.token_id,
                        workload=str(token.workload),
                        addresses=token.addresses,
                        state="spent" if token.spent is not None else "expired" if token.expires <= now else "open",
                        created=token.created,
                        expires=token.expires,
                        instance=token.instance,
                    )
                    for token in await self._store.join_tokens.list_all()
                )
            )
        )

    async def create_join_token(self, request: web.Request) -> web.Response:
        """Make a join token."""
        self._database_clock.require_near()  # It would be good for longer, or never.
        wanted = await read_body(request, admin.JoinTokenRequest)
        if not 1 <= wanted.ttl_s <= admin.MAX_JOIN_TOKEN_TTL_S:
            raise InputError(f"ttl_s must be 1 to {admin.MAX_JOIN_TOKEN_TTL_S:.0f}")
        where = wanted.ca or self._listen
        parse_endpoint(where)
        now = self._clock()
        record, secret = await self._store.join_tokens.create(
            workload=parse_workload(wanted.workload),
            addresses=wanted.addresses,
            labels=wanted.labels,
            expires=now + wanted.ttl_s,
            now=now,
        )
        token = JoinToken(
            token_id=record.token_id,
            secret=secret,
            ca=where,
            trust_domain=self._store.trust_domain,
            root_pin=record.root_pin,
            workload=str(record.workload),
        )
        return answer(
            admin.JoinTokenCreated(
                token=format_join_token(token),
                token_id=record.token_id,
                workload=str(record.workload),
                addresses=record.addresses,
                ca=where,
                expires=record.expires,
            ),
            status=201,
        )

    async def revoke_join_token(self, request: web.Request) -> web.Response:
        """Make an open join token worthless."""
        await self._store.join_tokens.revoke(request.match_info["id"], now=self._clock())
        return await self.join_tokens(request)

    async def evict(self, request: web.Request) -> web.Response:
        """Evict a sidecar, or all of a workload: end their streams, and distrust their certificates. Or dismiss one."""
        wanted = await read_body(request, admin.EvictionRequest)
        whom = parse_workload(wanted.whom) if "/" in wanted.whom else check_instance(wanted.whom)
        if wanted.dismiss:
            await self._store.evictions.dismiss(whom)
            return answer(self._describe(Eviction(instances=(), certificates=0, ends=0.0, tokens=())))
        # By a clock that is days ahead certificates that live would have ended: they wouldn't be distrusted.
        eviction = await self._store.evictions.evict(whom, now=self._database_clock.read())
        self._hub.end_evicted(eviction.instances)
        await self._authorities.reload()  # Its listeners push the bundle.
        return answer(self._describe(eviction))

    def _describe(self, eviction: Eviction) -> admin.Evicted:
        return admin.Evicted(
            instances=eviction.instances,
            certificates=eviction.certificates,
            ends=eviction.ends,
            tokens=eviction.tokens,
            bundle_sequence=self._authorities.bundle().sequence,
            is_unknown=eviction.is_unknown,
        )

    async def sidecars(self, _request: web.Request) -> web.Response:
        """Answer all sidecars."""
        live = await self._store.sidecars.list_live_instances(now=self._clock())
        renewable = {}
        if self._renewal_grace_s > 0:
            renewable = await self._store.sidecars.list_renewable(grace_s=self._renewal_grace_s)
        views = [
            admin.SidecarView(
                instance=sidecar.instance,
                workload=str(sidecar.workload),
                addresses=sidecar.addresses,
                allowed_addresses=sidecar.allowed_addresses,
                labels=sidecar.labels,
                tunnel_port=sidecar.tunnel_port,
                version=sidecar.version,
                capture=sidecar.capture,
                joined=sidecar.joined,
                last_seen=sidecar.last_seen,
                connected=sidecar.connected,
                live=sidecar.instance in live,
                installed_sequence=sidecar.installed_sequence,
                namespace_versions=sidecar.namespace_versions,
                evicted=sidecar.evicted,
                has_stopped=sidecar.has_stopped,
                clock_offset_s=sidecar.clock_offset_s,
                second_count=sidecar.second_count,
                second_at=sidecar.second_at,
                second_from=sidecar.second_from,
                renewable_until=None if sidecar.evicted is not None else renewable.get(sidecar.instance),
            )
            for sidecar in await self._store.sidecars.list_all()
        ]
        return answer(admin.SidecarList(sidecars=tuple(sorted(views, key=lambda view: (view.workload, view.instance)))))
