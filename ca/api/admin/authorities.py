"""Admin endpoints about the CA itself: status, rotation, journal. I/O through the store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web
from cryptography import x509

from ca.api.admin.answers import answer, check_query, read_body, read_number, read_time
from ca.authority.authorities import Authorities
from ca.authority.server_certificate import ServerCertificate
from ca.distribution.database_clock import DatabaseClock
from ca.rotation.rotation import Rotation
from ca.settings.configuration import Configuration
from ca.store.records import FINISHED_STEPS, RotationStep
from ca.store.store import Store
from shared.model.errors import UnavailableError
from shared.model.trust.bundle import RotationKind
from shared.model.trust.certificate import common_name
from shared.model.version import VERSION
from shared.model.wire import admin


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What doesn't change as long as the CA runs.

    Attributes:
        listen: ``host:port`` at which sidecars find it.
        started: seconds since the epoch.
        kek_source: the file, variable or Secret that holds the key-encryption key.
        is_kek_generated: the CA made the key-encryption key, at its first start or later; it wasn't provided.
    """

    configuration: Configuration
    listen: str
    started: float
    kek_source: str
    is_kek_generated: bool


class AuthoritiesAdmin:
    """The handlers."""

    def __init__(
        self,
        *,
        about: About,
        store: Store,
        authorities: Authorities,
        rotation: Rotation,
        server_certificate: ServerCertificate,
        database_clock: DatabaseClock,
        clock: Callable[[], float],
    ) -> None:
        self._about = about
        self._store = store
        self._authorities = authorities
        self._rotation = rotation
        self._server_certificate = server_certificate
        self._database_clock = database_clock
        self._clock = clock

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.get("/v1/status", self.status),
            web.get("/v1/rotation", self.rotation),
            web.post("/v1/rotation", self.rotate),
            web.post("/v1/rotation/revert", self.revert),
            web.post("/v1/authorities/{id}/taint", self.taint),
            web.get("/v1/journal", self.journal),
        ]

    async def status(self, _request: web.Request) -> web.Response:
        """Answer the CA at a glance."""
        return answer(await self._describe())

    async def rotation(self, _request: web.Request) -> web.Response:
        """Answer how far the last rotation has come."""
        return answer(await self._describe_rotation())

    async def rotate(self, request: web.Request) -> web.Response:
        """Begin a rotation, of the issuing authority or of the root."""
        wanted = await read_body(request, admin.RotationRequest)
        self._database_clock.require_near()  # A new authority would begin in the future, or have ended.
        await self._rotation.start(wanted.force, kind=wanted.kind)
        return answer(await self._describe_rotation())

    async def revert(self, _request: web.Request) -> web.Response:
        """Let the previous authority sign again."""
        await self._rotation.revert()
        return answer(await self._describe_rotation())

    async def taint(self, request: web.Request) -> web.Response:
        """Distrust an authority from now on."""
        await self._rotation.taint(request.match_info["id"])
        return answer(await self._describe())

    async def journal(self, request: web.Request) -> web.Response:
        """Answer what happened to the authorities."""
        check_query(request, "limit", "since", "until")
        entries = await self._store.authorities.list_journal(
            limit=int(read_number(request, "limit", default=100, low=1, high=1000)),
            since=read_time(request, "since"),
            until=read_time(request, "until"),
        )
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

    async def _describe_rotation(self) -> admin.RotationStatus:
        issuer = common_name(self._authorities.active.certificate.subject)
        root = common_name(self._authorities.snapshot.root.certificate.subject)
        status = await self._rotation.status(self._clock())
        if status is None:
            return admin.RotationStatus(step="none", issuer=issuer, root=root)
        is_prepared, is_root = status.step is RotationStep.PREPARED, status.kind is RotationKind.ROOT
        subjects = {one.subject: one.certificate for one in await self._store.authorities.list_all()}

        def shorten(subject: str) -> str:
            return common_name(x509.load_der_x509_certificate(subjects[subject]).subject)

        names = {s.instance: f"{s.instance} ({s.workload})" for s in await self._store.sidecars.list_all()}
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

    async def _describe(self) -> admin.CAStatus:
        now = self._clock()
        alive = await self._store.ledger.count_alive(now=now)
        sidecars = await self._store.sidecars.list_all()
        views = []
        for authority in await self._store.authorities.list_all():
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
        configuration = self._about.configuration
        restoration = await self._store.authorities.get_restoration()
        try:
            space = await self._store.database.look_at_disk()
        except UnavailableError:
            space = None  # The health check names the fault; an operator wants to know the rest all the same.
        return admin.CAStatus(
            version=VERSION,
            trust_domain=configuration.trust_domain,
            started=self._about.started,
            now=now,
            listen=self._about.listen,
            data_dir=str(configuration.data_dir) if self._store.database.is_sqlite else self._store.database.place,
            kek_file=self._about.kek_source,
            kek_generated=self._about.is_kek_generated,
            root_pin=self._authorities.root_pin,
            server_not_after=self._server_certificate.not_after,
            bundle_sequence=self._authorities.bundle().sequence,
            authorities=tuple(views),
            rotation=await self._describe_rotation(),
            sidecars_total=len(sidecars),
            sidecars_live=len(await self._store.sidecars.list_live_instances(now=now)),
            sidecars_connected=sum(sidecar.connected for sidecar in sidecars),
            certificates_alive=sum(alive.values()),
            leaf_lifetime_s=configuration.leaf_lifetime_s,
            disk_free_bytes=None if space is None else space.free,
            is_disk_full=self._store.database.is_disk_full,
            clock_offset_s=self._database_clock.offset_s,
            undone_evictions=() if restoration is None else restoration.undone_evictions,
        )
