"""Admin endpoints about the CA itself: status, rotation, join tokens, sidecars. I/O through the services."""

from __future__ import annotations

from aiohttp import web
from cryptography import x509

from ca.api.answers import answer, check_query, read_body, read_number
from ca.runtime.services import Services
from ca.settings.settings import parse_endpoint
from ca.store.records import FINISHED_STEPS, RotationStep
from shared.model.errors import InputError
from shared.model.identity.identity import parse_workload
from shared.model.trust.bundle import RotationKind
from shared.model.trust.certificate import common_name
from shared.model.trust.join_token import JoinToken, format_join_token
from shared.model.version import VERSION
from shared.model.wire import admin


class AuthoritiesAdmin:
    """The handlers."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.get("/v1/status", self.status),
            web.get("/v1/join-tokens", self.join_tokens),
            web.post("/v1/join-tokens", self.create_join_token),
            web.get("/v1/sidecars", self.sidecars),
            web.get("/v1/rotation", self.rotation),
            web.post("/v1/rotation", self.rotate),
            web.post("/v1/rotation/revert", self.revert),
            web.post("/v1/authorities/{id}/taint", self.taint),
            web.get("/v1/journal", self.journal),
        ]

    async def status(self, _request: web.Request) -> web.Response:
        """Answer the CA at a glance."""
        return answer(await self._status())

    async def join_tokens(self, _request: web.Request) -> web.Response:
        """Answer all join tokens, without their secrets."""
        now = self._services.clock()
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
                    for token in await self._services.store.list_join_tokens()
                )
            )
        )

    async def create_join_token(self, request: web.Request) -> web.Response:
        """Make a join token."""
        services = self._services
        wanted = await read_body(request, admin.JoinTokenRequest)
        if not 1 <= wanted.ttl_s <= admin.MAX_JOIN_TOKEN_TTL_S:
            raise InputError(f"ttl_s must be 1 to {admin.MAX_JOIN_TOKEN_TTL_S:.0f}")
        where = wanted.ca or services.listen
        parse_endpoint(where)
        now = services.clock()
        record, secret = await services.store.create_join_token(
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
            trust_domain=services.configuration.trust_domain,
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

    async def sidecars(self, _request: web.Request) -> web.Response:
        """Answer all sidecars."""
        store = self._services.store
        live = {sidecar.instance for sidecar in await store.list_live_sidecars(now=self._services.clock())}
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
            )
            for sidecar in await store.list_sidecars()
        ]
        return answer(admin.SidecarList(sidecars=tuple(sorted(views, key=lambda view: (view.workload, view.instance)))))

    async def rotation(self, _request: web.Request) -> web.Response:
        """Answer how far the last rotation has come."""
        return answer(await self._rotation())

    async def rotate(self, request: web.Request) -> web.Response:
        """Begin a rotation, of the issuing authority or of the root."""
        wanted = await read_body(request, admin.RotationRequest)
        await self._services.rotation.start(wanted.force, kind=wanted.kind)
        return answer(await self._rotation())

    async def revert(self, _request: web.Request) -> web.Response:
        """Let the previous authority sign again."""
        await self._services.rotation.revert()
        return answer(await self._rotation())

    async def taint(self, request: web.Request) -> web.Response:
        """Distrust an authority from now on."""
        await self._services.rotation.taint(request.match_info["id"])
        return answer(await self._status())

    async def journal(self, request: web.Request) -> web.Response:
        """Answer what happened to the authorities."""
        check_query(request, "limit")
        limit = int(read_number(request, "limit", default=100, low=1, high=1000))
        entries = await self._services.store.list_journal(limit=limit)
        return answer(
            admin.JournalList(
                entries=tuple(
                    admin.JournalView(
                        time=entry.time, event=entry.event, authority_id=entry.authority_id, detail=entry.detail
                    )
                    for entry in entries
                )
            )
        )

    async def _rotation(self) -> admin.RotationStatus:
        services = self._services
        issuer = common_name(services.authorities.active.certificate.subject)
        root = common_name(services.authorities.snapshot.root.certificate.subject)
        status = await services.rotation.status(services.clock())
        if status is None:
            return admin.RotationStatus(step="none", issuer=issuer, root=root)
        is_prepared, is_root = status.step is RotationStep.PREPARED, status.kind is RotationKind.ROOT
        subjects = {one.subject: one.certificate for one in await services.store.list_authorities()}

        def shorten(subject: str) -> str:
            return common_name(x509.load_der_x509_certificate(subjects[subject]).subject)

        names = {s.instance: f"{s.instance} ({s.workload})" for s in await services.store.list_sidecars()}
        return admin.RotationStatus(
            step=status.step.value,
            issuer=issuer,
            next=shorten(status.issuer) if is_prepared else "",
            previous=shorten(status.previous),
            rotation_id=status.rotation_id,
            sequence=status.sequence,
            waiting_for=tuple(names.get(instance, instance) for instance in status.waiting_for),
            previous_alive=status.alive_of_previous,
            forced=status.forced,
            started=status.started,
            changed=status.changed,
            is_finished=status.step in FINISHED_STEPS,
            kind=status.kind,
            root=root,
            next_root=shorten(status.root) if is_prepared and is_root else "",
            previous_root=shorten(status.previous_root) if is_root else "",
            unpublished=status.unpublished,
            ready_at=status.ready_at or 0.0,
            open_tokens=tuple(f"{token.token_id} ({token.workload})" for token in status.tokens),
            tokens_expire=max((token.expires for token in status.tokens), default=0.0),
        )

    async def _status(self) -> admin.CAStatus:
        services = self._services
        now = services.clock()
        alive = await services.store.count_alive(now=now)
        sidecars = await services.store.list_sidecars()
        views = []
        for authority in await services.store.list_authorities():
            certificate = x509.load_der_x509_certificate(authority.certificate)
            views.append(
                admin.AuthorityView(
                    authority_id=authority.authority_id,
                    kind=authority.kind.value,
                    phase=authority.phase,
                    subject=common_name(certificate.subject),
                    public_key_digest=authority.public_key_digest,
                    not_before=authority.not_before,
                    not_after=authority.not_after,
                    certificates_alive=alive.get(authority.authority_id, 0),
                )
            )
        configuration = services.configuration
        return admin.CAStatus(
            version=VERSION,
            trust_domain=configuration.trust_domain,
            started=services.started,
            now=now,
            listen=services.listen,
            data_dir=str(configuration.data_dir)
            if services.store.database.is_sqlite
            else services.store.database.place,
            kek_file=str(configuration.kek_file),
            kek_generated=services.kek.generated_at is not None,
            root_pin=services.authorities.root_pin,
            server_not_after=services.server_certificate.not_after,
            bundle_sequence=services.authorities.bundle().sequence,
            authorities=tuple(views),
            rotation=await self._rotation(),
            sidecars_total=len(sidecars),
            sidecars_live=len(await services.store.list_live_sidecars(now=now)),
            sidecars_connected=sum(sidecar.connected for sidecar in sidecars),
            certificates_alive=sum(alive.values()),
            leaf_lifetime_s=configuration.leaf_lifetime_s,
        )
