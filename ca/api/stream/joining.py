"""A stream's beginning and end: its first message → authenticate → enter the sidecar → an open session. I/O: the store.

Belongs here: enrolment, resumption, and what a welcome says. Doesn't: the WebSocket (``endpoint.py``), or how a token
or certificate is checked (``ca/authenticate``).
"""

from __future__ import annotations

from collections.abc import Callable

import structlog
from cryptography import x509

from ca.allowance import LineAllowance, StreamAllowance, StreamsUsedError
from ca.api.stream.renewing import Renewing
from ca.api.stream.second_sidecar import SecondSidecars
from ca.authenticate.join_token import authenticate_join_token, check_join_token, digest_key
from ca.authenticate.renewal_key import Channel
from ca.authenticate.sidecar_certificate import CertificateAuthentication, OlderKeyError
from ca.authority.authorities import Authorities
from ca.distribution.foreign_trust import ForeignTrust
from ca.distribution.hub import Hub
from ca.distribution.session import Session
from ca.issuance import Issuance
from ca.kubernetes.view import ClusterView
from ca.metrics import Metrics
from ca.places import name_source
from ca.rotation.rotation import Rotation
from ca.store.records import JoinGrant, SidecarRecord
from ca.store.store import Store
from shared.model.errors import ProtocolError, RefusedError, TouchmarkError
from shared.model.identity.identity import IdentityKind
from shared.model.trust.join_token import parse_join_token
from shared.model.version import VERSION
from shared.model.wire.clock_offset import HINT, describe_offset, is_notable
from shared.model.wire.messages import Enrol, EnrolPod, FromSidecar, Registration, Renew, Resume, Welcome
from shared.model.wire.registration import check_instance

_log = structlog.get_logger("touchmark.ca")


class Joining:
    """Opens sessions, and closes them."""

    def __init__(
        self,
        *,
        store: Store,
        authorities: Authorities,
        certificates: CertificateAuthentication,
        seconds: SecondSidecars,
        renewing: Renewing,
        issuance: Issuance,
        rotation: Rotation,
        hub: Hub,
        foreign: ForeignTrust,
        cluster: ClusterView,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._authorities = authorities
        self._certificates = certificates
        self._seconds = seconds
        self._renewing = renewing
        self._issuance = issuance
        self._rotation = rotation
        self._hub = hub
        self._foreign = foreign
        self._cluster = cluster
        self._metrics = metrics
        self._clock = clock
        self._openings = StreamAllowance()
        self._lines = LineAllowance()

    async def open(
        self,
        message: FromSidecar | None,
        leaf: x509.Certificate | None,
        *,
        protocol: int,
        origin: str,
        channel: Channel | None = None,
    ) -> Session:
        """Open the session that a stream's first message asks for, with the ``Welcome`` first in its outbox.

        Arguments:
            message: None when the peer has left.
            leaf: the client certificate of the TLS handshake.
            origin: the peer's address.
            channel: what a renewal is bound to; None: the stream's protocol knows no renewals.

        Raises:
            TouchmarkError: the peer is to be refused.
        """
        match message:
            case Enrol():
                return await self._enrol(message, protocol, origin)
            case Renew():
                return await self._renew(message, channel, protocol, origin)
            case EnrolPod(token=token, csr=csr, registration=registration):
                return await self._enrol_pod(token, csr, registration, protocol, origin)
            case Resume(registration=registration, installed_sequence=sequence):
                return await self._resume(leaf, registration, sequence, protocol, origin)
            case None:
                raise ProtocolError("the stream ended before its first message")
            case _:
                raise ProtocolError("the first message must be enrol or resume")

    async def close(self, session: Session) -> None:
        """Close a session whose stream has ended."""
        await self._leave(session, has_opened=True)

    def _count(self, who: str, origin: str) -> None:
        """Count a stream of one that has proven who it is. Raises ``StreamsUsedError`` where it opens too many."""
        try:
            self._openings.take(who)
        except StreamsUsedError as error:
            if self._lines.take(who):
                _log.warning("streams_too_often", who=who, origin=origin, message=error.message, hint=error.hint)
            raise

    async def _enrol(self, message: Enrol, protocol: int, origin: str) -> Session:
        shown, csr, registration = parse_join_token(message.token), message.csr, message.registration
        renewal_digest = self._renewing.digest_offer(message.renewal)

        async def enter(replaces: float | None) -> tuple[JoinGrant, SidecarRecord]:
            return await authenticate_join_token(
                self._store,
                shown,
                csr,
                registration,
                root_pins=self._authorities.accepted_pins,
                now=self._clock(),
                replaces=replaces,
                renewal_digest=renewal_digest,
            )

        instance = check_instance(registration.instance)
        # Who has no token of ours makes nobody wait for this instance's turn.
        await check_join_token(self._store, shown, root_pins=self._authorities.accepted_pins)
        self._count(f"token {shown.token_id}", origin)
        async with self._seconds.take_turn(instance):
            grant, record = await self._seconds.enter(instance, enter, how="enrol", origin=origin)
            return await self._open("enrol", grant, record, protocol, has_key=renewal_digest is not None, csr=csr)

    async def _renew(self, message: Renew, channel: Channel | None, protocol: int, origin: str) -> Session:
        await self._renewing.check(message, channel)
        self._count(f"renew {message.registration.instance}", origin)
        async with self._seconds.take_turn(message.registration.instance):
            grant, record = await self._renewing.enter(message, origin=origin)
            session = await self._open("renew", grant, record, protocol, has_key=True, csr=message.csr)
        _log.info("sidecar_renewed", instance=grant.instance, workload=str(grant.workload), origin=origin)
        return session

    async def _enrol_pod(
        self, token: str, csr: bytes, registration: Registration, protocol: int, origin: str
    ) -> Session:
        try:
            grant = await self._cluster.authenticate(token, csr, registration)
            # By address as well: with the pod's token elsewhere, nobody uses up what the pod's own sidecar may open.
            self._count(f"pod {grant.instance} {name_source(origin)}", origin)

            async def enter(replaces: float | None) -> SidecarRecord:
                return await self._store.enrolment.enter_pod(
                    grant, registration, key_digest=digest_key(csr), now=self._clock(), replaces=replaces
                )

            async with self._seconds.take_turn(grant.instance):
                record = await self._seconds.enter(grant.instance, enter, how="enrol_pod", origin=origin)
                return await self._open("enrol_pod", grant, record, protocol, has_key=False, csr=csr)
        except TouchmarkError as error:
            self._cluster.note_refusal(error, claimed=registration.instance, now=self._clock())
            raise

    async def _resume(
        self, leaf: x509.Certificate | None, registration: Registration, sequence: int, protocol: int, origin: str
    ) -> Session:
        if leaf is None:
            raise RefusedError("resume needs the sidecar's own certificate in the TLS handshake")
        try:
            known = await self._certificates.authenticate(leaf, claimed=registration.instance, now=self._clock())
        except OlderKeyError as error:
            self._count(f"older {error.instance}", origin)
            await self._seconds.check_older(error, origin=origin)
            raise
        self._count(known.instance, origin)
        grant = self._cluster.check_alive(known)
        record, has_key = await self._store.enrolment.come_again(grant, registration, now=self._clock())
        session = await self._open("resume", grant, record, protocol, has_key=has_key)
        # Mostly it is known: then nothing is written, nor looked for in the rotation, by thousands that come at once.
        if 0 < sequence <= self._authorities.bundle().sequence and sequence != record.installed_sequence:
            await self._store.sidecars.mark_bundle_installed(session.instance, sequence)
            self._rotation.poke()
        if leaf.issuer != self._authorities.active.certificate.subject:
            # The order to renew was lost with its stream; or it is being followed, and begins again.
            self._hub.send_reissue(session)
        return session

    async def _open(
        self,
        how: str,
        grant: JoinGrant,
        record: SidecarRecord,
        protocol: int,
        *,
        has_key: bool,
        csr: bytes | None = None,
    ) -> Session:
        session = Session(
            instance=grant.instance,
            workload=grant.workload,
            opened=self._clock(),
            grant=grant if grant.pod_uid else None,
            protocol=protocol,
        )
        try:
            await self._welcome(session, grant, csr, has_key=has_key)
            self._cluster.check_alive(grant)  # A pod that went while it was entered would never be told to end.
            # One that was evicted while it was entered: its stream wasn't there to be ended.
            await self._store.evictions.check(grant.instance)
            self._hub.publish_addresses(self._hub.directory.register(record))
            # A change between the reading for the welcome and the subscription would be missed otherwise.
            self._hub.send_state(session, await self._store.namespaces.get_state(grant.workload.namespace))
        except BaseException:
            await self._leave(session, has_opened=self._hub.get(session.instance) is session)
            raise
        self._metrics.streams_opened.labels(how=how).inc()
        _log.info(
            "stream_opened",
            how=how,
            instance=session.instance,
            workload=str(session.workload),
            version=record.version,
            protocol=protocol,
        )
        if record.clock_offset_s is not None and is_notable(record.clock_offset_s):
            _log.warning(
                "sidecar_clock_differs",
                instance=session.instance,
                workload=str(session.workload),
                offset_s=round(record.clock_offset_s, 3),
                message=describe_offset("its", record.clock_offset_s),
                hint=HINT,
            )
        return session

    async def _welcome(self, session: Session, grant: JoinGrant, csr: bytes | None, *, has_key: bool) -> None:
        """Queue the welcome and open the session; with a request sign the sidecar's own certificate.

        Arguments:
            has_key: the sidecar has a renewal key.
        """
        chain: tuple[bytes, ...] = ()
        if csr is not None:
            chain = (await self._issuance.issue_sidecar(grant, csr, self._clock())).chain
            self._metrics.issued.labels(kind=IdentityKind.SIDECAR.value).inc()
        namespace = grant.workload.namespace
        state = await self._store.namespaces.get_state(namespace)
        session.send(
            Welcome(
                trust_domain=self._store.trust_domain,
                namespace=namespace,
                service_account=grant.workload.service_account,
                chain=chain,
                bundle=self._authorities.bundle(),
                state=state,
                foreign=self._foreign.domains,
                ca_version=VERSION,
                time_ms=int(self._clock() * 1000),
                grace_s=self._renewing.tell_grace(has_key=has_key),
            )
        )
        self._hub.open(session)
        self._hub.subscribe(session, namespace)
        session.is_newer(namespace, state.version)

    async def _leave(self, session: Session, *, has_opened: bool) -> None:
        was_current = self._hub.close(session)
        if not was_current and (has_opened or self._hub.get(session.instance) is not None):
            return  # A newer stream of this instance has taken over: it is connected.
        try:
            await self._store.sidecars.mark_seen(
                session.instance, connected=False, has_stopped=session.has_stopped, now=self._clock()
            )
        except TouchmarkError as error:
            _log.warning("sidecar_not_marked", instance=session.instance, code=error.code, message=error.message)
