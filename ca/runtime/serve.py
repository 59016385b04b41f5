"""What the CA serves: sidecars' streams over TLS, and the admin API on its socket. I/O.

Belongs here: which endpoints there are, and where. Doesn't: what they answer (``ca/api``).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Final

import structlog
from aiohttp import web

from ca.api.access.callers import Callers, find_gid
from ca.api.admin.application import make_admin_application
from ca.api.admin.audit import AuditAdmin
from ca.api.admin.authorities import About, AuthoritiesAdmin
from ca.api.admin.backup import BackupAdmin
from ca.api.admin.challenge import ChallengeAdmin
from ca.api.admin.cluster import ClusterAdmin
from ca.api.admin.edges import EdgesAdmin
from ca.api.admin.foreign import ForeignAdmin
from ca.api.admin.history import HistoryAdmin
from ca.api.admin.namespaces import NamespacesAdmin
from ca.api.admin.observation import ObservationAdmin
from ca.api.admin.queue import QueueAdmin
from ca.api.admin.sidecars import SidecarsAdmin
from ca.api.health import HealthEndpoint
from ca.api.policies.drafts import DraftsAdmin
from ca.api.stream.certificate_requests import CertificateRequests
from ca.api.stream.endpoint import StreamEndpoint
from ca.api.stream.joining import Joining
from ca.api.stream.messages import SidecarMessages
from ca.api.stream.renewing import Renewing
from ca.api.stream.second_sidecar import SecondSidecars
from ca.authenticate.sidecar_certificate import CertificateAuthentication
from ca.connections import ConnectionRoom
from ca.distribution.live_connections import Survey
from ca.http_faults import make_server_logger
from ca.listening import MAX_HEADERS, SHUTDOWN_S, serve_tls
from ca.runtime.admin_socket import bind_admin_socket
from ca.runtime.compose import RunningCA
from ca.runtime.freed_memory import FreedMemory
from ca.runtime.listeners import Listeners
from ca.runtime.memory_limit import count_places, find_memory_limit
from shared.model.trust.admin_access import MAX_AUTHORIZATION_CHARACTERS
from shared.model.wire.messages import STREAM_PATH
from shared.runtime.tasks import Tasks

# How long a connection of the admin API may take to its first request's complete head, and from an answer to the next.
KEEPALIVE_S: Final = 30.0
# Of a request at the stream port, where none has a body. The server would take a megabyte of headers of each connection
# that hasn't joined, and needs two for it; a sidecar's request has some hundred bytes.
MAX_HEAD_BYTES: Final = 8_192
# From its request on until it has joined: a stranger's first message. Those of a joined sidecar may be 8 MiB, of which
# few strangers would fill the memory that a CA has.
MAX_FIRST_MESSAGE_BYTES: Final = 65_536
# Of each of its two doors. At the limit the oldest that asks nothing makes room.
MAX_ADMIN_CONNECTIONS: Final = 256
# Of one authenticated caller at one of them.
MAX_ADMIN_CONNECTIONS_OF_ONE: Final = 64

_log = structlog.get_logger("touchmark.ca")


async def serve(stack: contextlib.AsyncExitStack, ca: RunningCA, listeners: Listeners) -> None:
    """Serve until the stack unwinds.

    Raises:
        ConflictError, UnavailableError: the admin socket can't be made.
        InputError: the group of its readers doesn't exist.
    """
    health = HealthEndpoint(
        store=ca.store,
        authorities=ca.authorities,
        cluster=ca.cluster,
        check_directory=ca.directory.check if ca.directory is not None else None,
        metrics=ca.metrics,
        clock=ca.clock,
        check_clock=ca.database_clock.require_near,
    )
    survey = Survey(ca.hub)
    await _serve_sidecars(stack, ca, survey, health, listeners.sidecars)
    await _serve_admin(stack, ca, survey, health, listeners.admin)


async def _serve_sidecars(
    stack: contextlib.AsyncExitStack, ca: RunningCA, survey: Survey, health: HealthEndpoint, listener: socket.socket
) -> None:
    seconds = SecondSidecars(
        store=ca.store,
        hub=ca.hub,
        survey=survey,
        metrics=ca.metrics,
        clock=ca.clock,
        tell_pod=ca.cluster.tell_pod,
    )
    joining = Joining(
        store=ca.store,
        authorities=ca.authorities,
        certificates=CertificateAuthentication(store=ca.store, authorities=ca.authorities),
        seconds=seconds,
        renewing=Renewing(
            store=ca.store,
            authorities=ca.authorities,
            seconds=seconds,
            hub=ca.hub,
            grace_s=ca.configuration.renewal_grace_s,
            clock=ca.clock,
        ),
        issuance=ca.issuance,
        rotation=ca.rotation,
        hub=ca.hub,
        foreign=ca.foreign,
        cluster=ca.cluster,
        metrics=ca.metrics,
        clock=ca.clock,
    )
    messages = SidecarMessages(
        store=ca.store,
        authorities=ca.authorities,
        rotation=ca.rotation,
        hub=ca.hub,
        survey=survey,
        decisions=ca.decisions,
        programs=ca.programs,
        cluster=ca.cluster,
        metrics=ca.metrics,
    )
    requests = CertificateRequests(
        store=ca.store,
        issuance=ca.issuance,
        cluster=ca.cluster,
        programs=ca.programs,
        metrics=ca.metrics,
        tracer=ca.tracer,
        clock=ca.clock,
        check_clock=ca.database_clock.require_near,
    )
    tasks = Tasks(lambda name, error: _log.error("task_failed", task=name, error=repr(error)))
    stack.push_async_callback(tasks.close, timeout_s=SHUTDOWN_S)
    room = ConnectionRoom(
        count_places(find_memory_limit()),
        note_closed=ca.metrics.streams_refused.labels(code="displaced").inc,
        max_head_bytes=MAX_HEAD_BYTES,
        max_bytes=MAX_FIRST_MESSAGE_BYTES,
        note_flood=ca.metrics.streams_refused.labels(code="too_large").inc,
    )
    stream = StreamEndpoint(
        joining=joining,
        messages=messages,
        requests=requests,
        hub=ca.hub,
        cluster=ca.cluster,
        max_streams=ca.configuration.max_streams,
        metrics=ca.metrics,
        room=room,
        find_certificate=ca.server_certificate.find_certificate,
        note_ended=FreedMemory(tasks).note_ended,
        check_clock=ca.database_clock.require_near,
    )
    application = web.Application(client_max_size=65_536)
    application.router.add_get(STREAM_PATH, stream.serve)
    application.add_routes(health.routes())
    await serve_tls(stack, application, listener, ca.server_certificate.context, room=room)


async def _serve_admin(
    stack: contextlib.AsyncExitStack,
    ca: RunningCA,
    survey: Survey,
    health: HealthEndpoint,
    admin_listener: socket.socket | None,
) -> None:
    readers = ca.configuration.admin_readers
    readers_gid = find_gid(readers) if readers else None
    listener = stack.enter_context(bind_admin_socket(ca.configuration.admin_socket, readers_gid=readers_gid))
    store, clock = ca.store, ca.clock
    callers = Callers(users=ca.cluster.users, readers_gid=readers_gid, clock=clock)
    about = About(
        configuration=ca.configuration,
        listen=ca.listen,
        started=ca.started,
        kek_source=ca.kek.source,
        is_kek_generated=ca.kek.generated_at is not None,
    )
    note_closed = ca.metrics.admin_connections_closed.inc
    rooms = [(listener, ConnectionRoom(MAX_ADMIN_CONNECTIONS, note_closed=note_closed))]
    if admin_listener is not None:
        # At the socket many are root; here each caller has a name.
        room = ConnectionRoom(MAX_ADMIN_CONNECTIONS, note_closed=note_closed, of_one=MAX_ADMIN_CONNECTIONS_OF_ONE)
        rooms.append((admin_listener, room))
    application = make_admin_application(
        AuthoritiesAdmin(
            about=about,
            store=store,
            authorities=ca.authorities,
            rotation=ca.rotation,
            server_certificate=ca.server_certificate,
            database_clock=ca.database_clock,
            clock=clock,
        ),
        SidecarsAdmin(
            store=store,
            authorities=ca.authorities,
            hub=ca.hub,
            clock=clock,
            database_clock=ca.database_clock,
            listen=ca.listen,
            renewal_grace_s=ca.configuration.renewal_grace_s,
        ),
        NamespacesAdmin(
            store=store,
            programs=ca.programs,
            clock=clock,
            check_clock=ca.database_clock.require_near,
            are_policies_objects=ca.configuration.kubernetes,
        ),
        DraftsAdmin(store=store, clock=clock, are_policies_objects=ca.configuration.kubernetes),
        HistoryAdmin(store=store, clock=ca.clock, are_policies_objects=ca.configuration.kubernetes),
        ObservationAdmin(store=store, decisions=ca.decisions, hub=ca.hub, survey=survey, clock=clock),
        EdgesAdmin(store=store, clock=clock),
        QueueAdmin(store=store, programs=ca.programs, clock=clock),
        AuditAdmin(store=store),
        ClusterAdmin(store=store, cluster=ca.cluster),
        ForeignAdmin(store=store, authorities=ca.authorities, foreign=ca.foreign, clock=clock),
        BackupAdmin(store=store, clock=clock),
        ChallengeAdmin(callers.certificates),
        health,
        callers=callers,
        metrics=ca.metrics,
        tracer=ca.tracer,
        rooms=[room for _, room in rooms],
    )
    runner = web.AppRunner(
        application,
        access_log=None,
        shutdown_timeout=1.0,
        handler_cancellation=True,
        keepalive_timeout=KEEPALIVE_S,
        max_headers=MAX_HEADERS,
        max_field_size=MAX_AUTHORIZATION_CHARACTERS + 64,
        logger=make_server_logger(),
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    make_protocol = runner.server
    assert make_protocol is not None
    for each, room in rooms:
        server = await asyncio.get_running_loop().create_server(room.admit(make_protocol), sock=each)
        stack.callback(server.close)
