"""A sidecar's one WebSocket: authenticate → welcome → answer and push until either side ends it. I/O.

The messages are those of ``shared.model.wire.messages``. Everything is bounded: the first message and every write have
a deadline, silence is ended by the heartbeat, requests in work and messages that wait have a limit, and a message that
can't be decoded ends the stream with a ``Refusal``.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from typing import Any, Final

import msgspec
import structlog
from aiohttp import WSCloseCode, WSMsgType, web
from cryptography import x509

from ca.authenticate.join_token import authenticate_join_token
from ca.authenticate.sidecar_certificate import authenticate_certificate
from ca.distribution.hub import REPLACED
from ca.distribution.session import Session
from ca.runtime.services import Services
from ca.store.enrolment import normalise_address
from ca.store.records import JoinGrant
from shared.model.errors import ProtocolError, RefusedError, TouchmarkError, UnavailableError
from shared.model.identity.identity import Identity, IdentityKind, check_namespace
from shared.model.policy.reasons import Reason
from shared.model.trust.join_token import parse_join_token
from shared.model.version import VERSION
from shared.model.wire.messages import (
    MAX_DECISIONS_PER_MESSAGE,
    MAX_MESSAGE_BYTES,
    BundleInstalled,
    CertificateIssued,
    CertificateRefused,
    CertificateRequest,
    ConnectionsReport,
    Decisions,
    DecisionsStored,
    Enrol,
    EnrolPod,
    FromSidecar,
    Lookup,
    NamespaceInstalled,
    Refusal,
    Registration,
    Resume,
    Subscribe,
    Welcome,
    decode_from_sidecar,
    encode_message,
)
from shared.model.wire.protocol import choose_protocol, name_subprotocol

FIRST_MESSAGE_DEADLINE_S: Final = 10.0
SEND_DEADLINE_S: Final = 20.0
CLOSE_DEADLINE_S: Final = 3.0
HEARTBEAT_S: Final = 20.0
# Of one stream at once; a sidecar with more to ask waits, and its socket with it.
MAX_REQUESTS_IN_WORK: Final = 64
# Streams whose first message hasn't been accepted yet: strangers take no more memory than this many messages.
MAX_UNAUTHENTICATED: Final = 128

_MAX_LOST: Final = 10**12
_log = structlog.get_logger("touchmark.ca")


class StreamEndpoint:
    """The handler behind ``STREAM_PATH``."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._unauthenticated = 0

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Serve one stream until it ends. Refuses with 503 when a stated limit is reached."""
        services = self._services
        if len(services.hub) >= services.configuration.max_streams or self._unauthenticated >= MAX_UNAUTHENTICATED:
            services.metrics.streams_refused.labels(code="overloaded").inc()
            return web.Response(status=503, text="overloaded\n", headers={"Retry-After": "5"})
        if services.cluster is not None and not services.cluster.is_synced:
            # A pod that isn't known would be refused as if it were gone: it has to wait for what isn't read yet.
            services.metrics.streams_refused.labels(code="unsynced").inc()
            return web.Response(status=503, text="the cluster isn't read yet\n", headers={"Retry-After": "2"})
        offered = request.headers.getall("Sec-WebSocket-Protocol", [])
        try:
            protocol = choose_protocol(name for header in offered for name in header.split(","))
        except ProtocolError as error:
            services.metrics.streams_refused.labels(code=error.code).inc()
            _log.info("stream_refused", code=error.code, message=error.message)
            return web.Response(status=400, text=f"{error.message}: {error.hint}\n")
        websocket = web.WebSocketResponse(
            protocols=(name_subprotocol(protocol),) if offered else (),
            heartbeat=HEARTBEAT_S,
            timeout=CLOSE_DEADLINE_S,
            max_msg_size=MAX_MESSAGE_BYTES,
            compress=False,
        )
        if not websocket.can_prepare(request):
            return web.Response(status=426, text="a WebSocket, please\n", headers={"Upgrade": "websocket"})
        await websocket.prepare(request)
        try:
            session = await self._authenticate(request, websocket, protocol)
        except TouchmarkError as error:
            await self._refuse(websocket, error)
            return websocket
        try:
            await _Conversation(services, websocket, session).run()
        except TouchmarkError as error:
            await self._refuse(websocket, error, instance=session.instance)
        finally:
            await self._leave(session)
        return websocket

    async def _authenticate(self, request: web.Request, websocket: web.WebSocketResponse, protocol: int) -> Session:
        self._unauthenticated += 1
        try:
            async with asyncio.timeout(FIRST_MESSAGE_DEADLINE_S):
                message = await _receive(websocket)
        except TimeoutError as error:
            raise ProtocolError("no first message in time") from error
        finally:
            self._unauthenticated -= 1
        match message:
            case Enrol(token=token, csr=csr, registration=registration):
                return await self._enrol(token, csr, registration, protocol)
            case EnrolPod(token=token, csr=csr, registration=registration):
                return await self._enrol_pod(token, csr, registration, protocol)
            case Resume(registration=registration, installed_sequence=sequence):
                return await self._resume(_peer_certificate(request), registration, sequence, protocol)
            case None:
                raise ProtocolError("the stream ended before its first message")
            case _:
                raise ProtocolError("the first message must be enrol or resume")

    async def _enrol(self, token: str, csr: bytes, registration: Registration, protocol: int) -> Session:
        services = self._services
        now = services.clock()
        grant = await authenticate_join_token(
            services.store,
            parse_join_token(token),
            csr,
            registration,
            root_pins=services.authorities.accepted_pins,
            now=now,
        )
        return await self._register("enrol", grant, registration, protocol, csr=csr)

    async def _enrol_pod(self, token: str, csr: bytes, registration: Registration, protocol: int) -> Session:
        services = self._services
        if (cluster := services.cluster) is None:
            raise RefusedError("this CA works outside a cluster", hint="start it with --kubernetes, or join by token")
        try:
            grant = await cluster.authenticate(token, csr, registration)
            await services.store.enter_pod_sidecar(grant, now=services.clock())
            return await self._register("enrol_pod", grant, registration, protocol, csr=csr)
        except TouchmarkError as error:
            cluster.refusals.note(error, claimed=registration.instance, now=services.clock())
            raise

    async def _resume(
        self, leaf: x509.Certificate | None, registration: Registration, sequence: int, protocol: int
    ) -> Session:
        services = self._services
        if leaf is None:
            raise RefusedError("resume needs the sidecar's own certificate in the TLS handshake")
        if not services.store.database.is_sqlite:
            # It may come from another replica, with a certificate or a bundle that this one hasn't heard of yet.
            await services.authorities.reload()
        bundle = services.authorities.bundle()
        # The issuer is taken from our own bundle, not from the peer: each authority has its own subject.
        issuers = [x509.load_der_x509_certificate(der) for der in bundle.issuers]
        chain = [leaf, *(issuer for issuer in issuers if issuer.subject == leaf.issuer)]
        grant = await authenticate_certificate(services.store, services.verifier, chain, now=services.clock())
        session = await self._register("resume", _check_pod(services, grant), registration, protocol)
        if 0 < sequence <= bundle.sequence:
            await services.store.mark_bundle_installed(session.instance, sequence)
            services.rotation.poke()
        return session

    async def _register(
        self, how: str, grant: JoinGrant, registration: Registration, protocol: int, *, csr: bytes | None = None
    ) -> Session:
        """Enter the sidecar and open its session, with the ``Welcome`` first in its outbox."""
        services = self._services
        namespace = grant.workload.namespace
        record = await services.store.register_sidecar(grant, registration, now=services.clock())
        session = Session(
            instance=grant.instance,
            workload=grant.workload,
            opened=services.clock(),
            grant=grant if grant.pod_uid else None,
            protocol=protocol,
        )
        try:
            chain: tuple[bytes, ...] = ()
            if csr is not None:
                chain = (await services.issuance.issue_sidecar(grant, csr, services.clock())).chain
                services.metrics.issued.labels(kind=IdentityKind.SIDECAR.value).inc()
            state = await services.store.get_namespace_state(namespace)
            session.send(
                Welcome(
                    trust_domain=services.configuration.trust_domain,
                    namespace=namespace,
                    service_account=grant.workload.service_account,
                    chain=chain,
                    bundle=services.authorities.bundle(),
                    state=state,
                    foreign=services.foreign.domains,
                    ca_version=VERSION,
                )
            )
            services.hub.open(session)
            services.hub.subscribe(session, namespace)
            session.is_newer(namespace, state.version)
            _check_pod(services, grant)  # Whoever went while it was entered would never be told to end.
            services.hub.publish_addresses(services.hub.directory.register(record))
            # A change between the reading above and the subscription would be missed otherwise.
            services.hub.send_state(session, await services.store.get_namespace_state(namespace))
        except BaseException:
            await self._leave(session, has_opened=services.hub.get(session.instance) is session)
            raise
        services.metrics.streams_opened.labels(how=how).inc()
        _log.info(
            "stream_opened",
            how=how,
            instance=session.instance,
            workload=str(session.workload),
            version=record.version,
            protocol=protocol,
        )
        return session

    async def _leave(self, session: Session, *, has_opened: bool = True) -> None:
        services = self._services
        was_current = services.hub.close(session)
        if not was_current and (has_opened or services.hub.get(session.instance) is not None):
            return  # A newer stream of this instance has taken over: it is connected.
        try:
            await services.store.mark_seen(session.instance, connected=False, now=services.clock())
        except TouchmarkError as error:
            _log.warning("sidecar_not_marked", instance=session.instance, code=error.code, message=error.message)

    async def _refuse(self, websocket: web.WebSocketResponse, error: TouchmarkError, *, instance: str = "") -> None:
        # An ``EnrolmentRefused`` has one, too; its module isn't loaded outside a cluster.
        code = getattr(error, "reason", error.code)
        self._services.metrics.streams_refused.labels(code=error.code).inc()
        _log.info("stream_refused", code=code, message=error.message, instance=instance)
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(CLOSE_DEADLINE_S):
                await websocket.send_bytes(
                    encode_message(Refusal(code=str(code), message=error.message, hint=error.hint))
                )
                await websocket.close(code=WSCloseCode.POLICY_VIOLATION, message=error.code.encode())


class _Conversation:
    """What happens on an authenticated stream."""

    def __init__(self, services: Services, websocket: web.WebSocketResponse, session: Session) -> None:
        self._services = services
        self._websocket = websocket
        self._session = session
        self._requests = asyncio.Semaphore(MAX_REQUESTS_IN_WORK)
        self._in_work: set[asyncio.Task[None]] = set()
        self._identity = Identity(
            trust_domain=services.configuration.trust_domain, workload=session.workload, kind=IdentityKind.SIDECAR
        )

    async def run(self) -> None:
        """Read and write until the peer leaves, breaks the protocol, or the CA ends the stream.

        Raises:
            TouchmarkError: the peer is to be refused.
        """
        name = self._session.instance
        reader = asyncio.create_task(self._read(), name=f"stream-read-{name}")
        writer = asyncio.create_task(self._write(), name=f"stream-write-{name}")
        try:
            ends: list[asyncio.Future[Any]] = [reader, writer, self._session.ended]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            tasks = [reader, writer, *self._in_work]
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        why = self._session.ended.result() if self._session.ended.done() else "peer"
        if why != "peer":
            self._services.metrics.streams_closed.labels(why=why).inc()
        _log.info("stream_closed", instance=name, why=why, close_code=self._websocket.close_code)
        for failure in results:
            if isinstance(failure, TouchmarkError):
                raise failure
            if isinstance(failure, Exception) and not isinstance(failure, TimeoutError | ConnectionError):
                raise failure
        code = WSCloseCode.SERVICE_RESTART if why == "shutdown" else WSCloseCode.TRY_AGAIN_LATER
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(CLOSE_DEADLINE_S):
                await self._websocket.close(code=WSCloseCode.OK if why in ("peer", REPLACED) else code)

    async def _read(self) -> None:
        while (message := await _receive(self._websocket)) is not None:
            await self._answer(message)

    async def _write(self) -> None:
        take = self._session.outbox.take
        while True:
            data = await take()
            try:
                async with asyncio.timeout(SEND_DEADLINE_S):
                    await self._websocket.send_bytes(data)
            except TimeoutError:
                self._session.end("slow")
                return

    async def _answer(self, message: FromSidecar) -> None:
        services, session = self._services, self._session
        match message:
            case CertificateRequest():
                await self._requests.acquire()
                task = asyncio.create_task(self._issue(message), name=f"issue-{session.instance}")
                self._in_work.add(task)
                task.add_done_callback(self._finish_request)
            case Decisions(batch=batch, records=records, lost=lost):
                if len(records) > MAX_DECISIONS_PER_MESSAGE or not 0 <= lost <= _MAX_LOST:
                    raise ProtocolError(f"a message holds at most {MAX_DECISIONS_PER_MESSAGE} decisions")
                try:
                    await services.decisions.take_in(
                        records, instance=session.instance, workload=session.workload, lost=lost
                    )
                except UnavailableError as error:
                    # No acknowledgement: the sidecar keeps the batch and sends it again.
                    services.metrics.failures.labels(where="decisions").inc()
                    _log.warning("decisions_not_stored", instance=session.instance, message=error.message)
                    return
                session.send(DecisionsStored(batch=batch))
            case BundleInstalled(sequence=sequence):
                if not 0 < sequence <= services.authorities.bundle().sequence:
                    raise ProtocolError("a bundle was acknowledged that nobody sent")
                await services.store.mark_bundle_installed(session.instance, sequence)
                services.rotation.poke()
            case NamespaceInstalled(namespace=namespace, version=version):
                if not 0 <= version <= session.namespaces.get(namespace, -1):
                    raise ProtocolError("a namespace's version was acknowledged that nobody sent")
                await services.store.mark_namespace_installed(session.instance, namespace, version)
            case Subscribe(namespace=namespace):
                services.hub.subscribe(session, check_namespace(namespace))
                await services.store.mark_subscribed(session.instance, namespace)
                services.hub.send_state(session, await services.store.get_namespace_state(namespace))
            case Lookup(address=address):
                normal = normalise_address(address)
                if normal != address:
                    raise ProtocolError(f"an address that isn't in its one spelling: {address[:80]!r}")
                services.hub.watch(session, normal)
            case ConnectionsReport():
                services.survey.take_report(session, message)
            case Enrol() | EnrolPod() | Resume():
                raise ProtocolError("the stream is authenticated already")

    def _finish_request(self, task: asyncio.Task[None]) -> None:
        self._in_work.discard(task)
        self._requests.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._services.metrics.failures.labels(where="issuance").inc()
            _log.error("issuance_failed", instance=self._session.instance, error=repr(error))
            self._session.end("failure")

    async def _issue(self, request: CertificateRequest) -> None:
        services, session = self._services, self._session
        begin = time.perf_counter()
        now = services.clock()
        try:
            if request.program is None:
                record = await services.store.get_sidecar(session.instance)
                if record is None:
                    raise RefusedError("this sidecar is no longer known", hint="join with a new join token")
                issued = await services.issuance.issue_sidecar(_check_pod(services, record.grant), request.csr, now)
            else:
                if session.grant is not None:
                    _check_pod(services, session.grant)
                issued = await services.issuance.issue_program(
                    self._identity, request.csr, request.program, request.evidence, now, instance=session.instance
                )
        except TouchmarkError as error:
            default = Reason.CA_UNAVAILABLE if isinstance(error, UnavailableError) else error.code
            reason = str(getattr(error, "reason", default))
            services.metrics.issue_refused.labels(reason=reason).inc()
            _log.info("certificate_refused", instance=session.instance, reason=reason, message=error.message)
            session.send(CertificateRefused(request=request.request, reason=reason, message=error.message))
            return
        services.metrics.issued.labels(kind=issued.record.identity.kind.value).inc()
        services.metrics.issue_seconds.observe(time.perf_counter() - begin)
        session.send(CertificateIssued(request=request.request, chain=issued.chain))


def _check_pod(services: Services, grant: JoinGrant) -> JoinGrant:
    """Return the grant as it is now; a pod's only while the pod is alive.

    Raises:
        RefusedError: its pod is gone, or it was a pod's and this CA doesn't know pods.
        UnavailableError: whether it is alive isn't known.
    """
    if not grant.pod_uid:
        return grant
    if services.cluster is None:
        raise RefusedError(
            f"{grant.instance} joined as a pod, and this CA works outside a cluster", hint="start it with --kubernetes"
        )
    return services.cluster.check_alive(grant)


async def _receive(websocket: web.WebSocketResponse) -> FromSidecar | None:
    """Return the next message; None when the peer has left.

    Raises:
        ProtocolError: it isn't a message of ours.
    """
    frame = await websocket.receive()
    if frame.type in (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED):
        return None
    if frame.type is WSMsgType.ERROR:
        raise ProtocolError("a broken WebSocket frame, or a message that is too large")
    if frame.type not in (WSMsgType.BINARY, WSMsgType.TEXT):
        raise ProtocolError("neither text nor binary")
    try:
        return decode_from_sidecar(frame.data)
    except msgspec.DecodeError as error:
        raise ProtocolError(f"a message that can't be decoded: {error}") from error


def _peer_certificate(request: web.Request) -> x509.Certificate | None:
    transport = request.transport
    connection: ssl.SSLObject | None = transport.get_extra_info("ssl_object") if transport is not None else None
    der = connection.getpeercert(binary_form=True) if connection is not None else None
    if der is None:
        return None
    try:
        return x509.load_der_x509_certificate(der)
    except ValueError as error:
        raise ProtocolError("the client certificate can't be read") from error
