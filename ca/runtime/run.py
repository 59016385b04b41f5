"""The CA put together: open → serve → look after things → close. I/O.

Belongs here: what starts, in which order, and how it ends. Doesn't: what any of it does.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final

import structlog
from aiohttp import web

from ca.api.admin import make_admin_application
from ca.api.health import HealthEndpoint
from ca.api.stream import StreamEndpoint
from ca.authority.authorities import Authorities
from ca.authority.kek import ENVIRONMENT_VARIABLE, KeyEncryptionKey, load_key_encryption_key
from ca.authority.server_certificate import ServerCertificate
from ca.distribution.directory import Directory
from ca.distribution.foreign_trust import ForeignTrust
from ca.distribution.hub import Hub
from ca.distribution.live_connections import Survey
from ca.distribution.replica_sync import Following
from ca.issuance import Issuance
from ca.listening import SHUTDOWN_S, bind, serve_tls
from ca.metrics import Metrics
from ca.observation.decisions import PRUNE_INTERVAL_S, Decisions
from ca.rotation.rotation import Rotation
from ca.rotation.status import Pace
from ca.runtime.services import Services
from ca.settings.settings import Configuration, format_endpoint
from ca.store.store import Store
from shared.model.errors import ConflictError, InputError, TouchmarkError, UnavailableError
from shared.model.kubernetes.contract import SYSTEM_NAMESPACE
from shared.model.wire.messages import STREAM_PATH
from shared.runtime.tasks import Tasks

REFRESH_INTERVAL_S: Final = 15.0
CERTIFICATE_CHECK_S: Final = 5.0
MAX_REISSUE_SPREAD_S: Final = 300.0
# By then every replica has noticed what another has changed (``ca/distribution/replica_sync.py`` looks once a second),
# and a sidecar's handshakes are over that began before it installed the bundle.
SETTLING_S: Final = 5.0
# What has ended (certificates, join tokens, sidecars) is shown that long; a ledger for ever would fill the disk.
LEDGER_KEPT_S: Final = 30 * 86_400.0

_log = structlog.get_logger("touchmark.ca")


@contextlib.asynccontextmanager
async def run_ca(configuration: Configuration) -> AsyncIterator[Services]:
    """Run the CA for as long as the context lasts.

    Raises:
        InputError, UnavailableError, ConflictError: a directory, port or socket can't be used; each says which.
    """
    async with contextlib.AsyncExitStack() as stack:
        if not configuration.database:
            stack.enter_context(_lock_data_dir(configuration.data_dir))
        # The sockets first: a port in use must not leave a new store behind.
        listener = stack.enter_context(contextlib.closing(bind(configuration.host, configuration.port)))
        admin_listener = None
        if configuration.admin_host:
            admin_listener = stack.enter_context(
                contextlib.closing(bind(configuration.admin_host, configuration.admin_port))
            )
        kek = await _load_key(configuration)
        store = await Store.open(
            configuration.database or configuration.data_dir,
            trust_domain=configuration.trust_domain,
            replica=_name_replica() if configuration.database else "",
        )
        stack.push_async_callback(store.close)
        await store.disconnect_all()
        now = time.time()
        authorities = await Authorities.open(store, kek, now=now)
        server_certificate = ServerCertificate(
            authorities,
            trust_domain=configuration.trust_domain,
            host=configuration.host,
            names=configuration.server_names,
        )
        server_certificate.renew(now=now)
        metrics = Metrics()
        hub = Hub(directory=Directory(), metrics=metrics)
        services = Services(
            configuration=configuration,
            kek=kek,
            store=store,
            authorities=authorities,
            issuance=Issuance(store, authorities, leaf_lifetime_s=configuration.leaf_lifetime_s),
            rotation=Rotation(
                store,
                authorities,
                pace=Pace(
                    minimum_s=configuration.rotation_minimum_wait_s,
                    settling_s=SETTLING_S,
                    delivery_s=configuration.trust_delay_s if configuration.kubernetes else 0.0,
                ),
            ),
            server_certificate=server_certificate,
            hub=hub,
            survey=Survey(hub),
            decisions=Decisions(
                store,
                metrics=metrics,
                max_age_s=configuration.decisions_max_age_s,
                max_rows=configuration.decisions_max_rows,
            ),
            foreign=await ForeignTrust.open(store),
            metrics=metrics,
            listen=format_endpoint(configuration.host, listener.getsockname()[1]),
            started=now,
        )
        services.foreign.on_change = hub.publish_foreign_trust
        services.rotation.is_leader = lambda: services.is_leader
        hub.directory.refresh(await store.list_live_sidecars(now=now))
        following = None if store.database.is_sqlite else Following(services)
        if following is not None:
            stack.push_async_callback(_leave, store)
        tasks = Tasks(_note_failure)
        stack.push_async_callback(tasks.close, timeout_s=SHUTDOWN_S)
        Upkeep(services, tasks).start()
        if following is not None:
            await following.start()
            tasks.spawn(following.run(), name="following")
        if configuration.kubernetes:
            from ca.kubernetes.run import run_cluster  # 20 MiB, for clusters only.

            await stack.enter_async_context(run_cluster(services, tasks))
        health = HealthEndpoint(services)
        await _serve_sidecars(stack, services, health, listener)
        await _serve_admin(stack, services, health, admin_listener)
        stack.callback(hub.end_all, "shutdown")
        yield services


class Upkeep:
    """What the CA does by itself: pushes after changes, renewals, retention, forgetting the dead."""

    def __init__(self, services: Services, tasks: Tasks) -> None:
        self._services = services
        self._tasks = tasks
        self._changed_namespaces: set[str] = set()
        self._has_changes = asyncio.Event()
        self._signer = services.authorities.active.authority_id
        self._sequence = services.authorities.bundle().sequence

    def start(self) -> None:
        """Begin; ends with the tasks."""
        services = self._services
        services.metrics.bundle_sequence.set(self._sequence)
        services.store.on_namespace_change(self.note_namespace)
        services.authorities.on_change(self.note_authorities)
        spawn = self._tasks.spawn
        spawn(services.rotation.run(), name="rotation")
        spawn(self._publish_namespaces(), name="publish-namespaces")
        spawn(self._repeat(CERTIFICATE_CHECK_S, self._renew_certificate), name="server-certificate")
        spawn(self._repeat(REFRESH_INTERVAL_S, self._refresh_directory), name="directory")
        spawn(self._repeat(PRUNE_INTERVAL_S, self._prune), name="retention")

    def note_namespace(self, namespace: str) -> None:
        """The store has committed a change of this namespace."""
        self._changed_namespaces.add(namespace)
        self._has_changes.set()

    def note_authorities(self) -> None:
        """The bundle or the authority that signs has changed: push, and have everybody renew when the signer did."""
        services = self._services
        bundle = services.authorities.bundle()
        if bundle.sequence != self._sequence:
            self._sequence = bundle.sequence
            services.hub.publish_bundle(bundle)
        if services.server_certificate.is_due(now=services.clock()):
            services.server_certificate.renew(now=services.clock())
        signer = services.authorities.active.authority_id
        if signer != self._signer:
            self._signer = signer
            # Each sidecar renews a handful of credentials; the spread keeps the CA below a tenth of what it can sign.
            services.hub.publish_reissue(spread_s=min(MAX_REISSUE_SPREAD_S, max(1.0, len(services.hub) * 0.05)))
            _log.info("signer_changed", issuer=signer)

    async def _publish_namespaces(self) -> None:
        services = self._services
        while True:
            await self._has_changes.wait()
            self._has_changes.clear()
            while self._changed_namespaces:
                namespace = self._changed_namespaces.pop()
                try:
                    services.hub.publish_namespace(await services.store.get_namespace_state(namespace))
                except UnavailableError as error:
                    _log.warning("namespace_not_published", namespace=namespace, message=error.message)
                    self._changed_namespaces.add(namespace)
                    await asyncio.sleep(1.0)

    async def _repeat(self, interval_s: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(interval_s)
            try:
                await work()
            except TouchmarkError as error:
                self._services.metrics.failures.labels(where="upkeep").inc()
                _log.warning("upkeep_failed", code=error.code, message=error.message)

    async def _renew_certificate(self) -> None:
        services = self._services
        if services.server_certificate.is_due(now=services.clock()):
            services.server_certificate.renew(now=services.clock())
        services.metrics.server_not_after.set(services.server_certificate.not_after)
        issuer = services.authorities.active.certificate
        services.metrics.issuer_not_after.set(issuer.not_valid_after_utc.timestamp())
        services.metrics.root_not_after.set(services.authorities.snapshot.root.record.not_after)

    async def _refresh_directory(self) -> None:
        services = self._services
        live = await services.store.list_live_sidecars(now=services.clock())
        services.hub.publish_addresses(services.hub.directory.refresh(live))

    async def _prune(self) -> None:
        services, now = self._services, self._services.clock()
        if not services.is_leader:
            return
        await services.decisions.prune(now=now)
        long_ago = now - LEDGER_KEPT_S
        await services.store.prune_certificates(expired_before=long_ago)
        await services.store.prune_join_tokens(expired_before=long_ago)
        await services.store.delete_sidecars(silent_since=long_ago, now=now)


async def _load_key(configuration: Configuration) -> KeyEncryptionKey:
    if not configuration.kek_secret or os.environ.get(ENVIRONMENT_VARIABLE):
        return load_key_encryption_key(configuration.kek_file, configuration.data_dir)
    from ca.kubernetes.api.client import ClusterClient
    from ca.kubernetes.api.kek_secret import load_key_secret

    client = await ClusterClient.open(configuration.kubeconfig)
    try:
        return await load_key_secret(client, namespace=SYSTEM_NAMESPACE, name=configuration.kek_secret, now=time.time())
    finally:
        await client.close()


def _name_replica() -> str:
    """Return a name for this process unlike any other's: a pod's name is that of its earlier process, too."""
    return f"{socket.gethostname()[:63]}_{secrets.token_hex(8)}"


async def _leave(store: Store) -> None:
    try:
        await store.leave()
    except TouchmarkError as error:  # The others notice its silence.
        _log.warning("replica_not_left", message=error.message)


def _note_failure(name: str, error: BaseException) -> None:
    _log.error("task_failed", task=name, error=repr(error))


async def _serve_sidecars(
    stack: contextlib.AsyncExitStack, services: Services, health: HealthEndpoint, listener: socket.socket
) -> None:
    application = web.Application(client_max_size=65_536)
    application.router.add_get(STREAM_PATH, StreamEndpoint(services).serve)
    application.add_routes(health.routes())
    await serve_tls(stack, application, listener, services.server_certificate.context)


async def _serve_admin(
    stack: contextlib.AsyncExitStack,
    services: Services,
    health: HealthEndpoint,
    admin_listener: socket.socket | None,
) -> None:
    path = services.configuration.admin_socket
    listener = _bind_unix(path)
    stack.callback(_remove_socket, path, os.stat(path).st_ino)
    runner = web.AppRunner(
        make_admin_application(services, health), access_log=None, shutdown_timeout=1.0, handler_cancellation=True
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.SockSite(runner, listener).start()
    if admin_listener is not None:
        services.admin_listen = format_endpoint(services.configuration.admin_host, admin_listener.getsockname()[1])
        await web.SockSite(runner, admin_listener).start()


@contextlib.contextmanager
def _lock_data_dir(directory: Path) -> Iterator[None]:
    """Hold the data directory for this process alone."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InputError(
            f"the data directory can't be used: {directory}: {error.strerror}",
            hint="give the CA's user a directory of its own with --data-dir",
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConflictError(
                f"another CA works in {directory}", hint="stop it first, or give this one another --data-dir"
            ) from error
        yield
    finally:
        os.close(descriptor)


def _bind_unix(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _remove_stale(path)
        # The mode holds from the very first moment: a chmod afterwards would leave a gap.
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise UnavailableError(
            f"the admin socket can't be made: {path}: {error.strerror}", hint="choose another --admin-socket"
        ) from error
    except TouchmarkError:
        listener.close()
        raise
    return listener


def _remove_stale(path: Path) -> None:
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise ConflictError(f"another CA serves {path}", hint="stop it first, or choose another --admin-socket")


def _remove_socket(path: Path, inode: int) -> None:
    with contextlib.suppress(OSError):
        if path.stat().st_ino == inode:
            path.unlink()
