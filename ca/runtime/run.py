"""The CA run: lock → bind → open → compose → start → serve, and all of it undone at the end. I/O.

Belongs here: what starts, in which order, and how it ends. Doesn't: which part gets what (``compose.py``), which
endpoints there are (``serve.py``), or what any of it does.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import structlog

from ca.authority.authorities import Authorities
from ca.authority.kek import ENVIRONMENT_VARIABLE, KeyEncryptionKey, load_key_encryption_key, name_sealing_key
from ca.distribution.database_clock import DatabaseClock
from ca.distribution.replica_sync import ReplicaSync
from ca.listening import SHUTDOWN_S
from ca.metrics import Metrics
from ca.observation.edge_retention import EdgeRetention
from ca.runtime.compose import RunningCA, compose
from ca.runtime.data_directory import wait_for_data_directory
from ca.runtime.gauges import Gauges
from ca.runtime.laggards import Laggards
from ca.runtime.listeners import bind_listeners
from ca.runtime.serve import serve
from ca.runtime.upkeep import Publishing, Upkeep
from ca.settings.configuration import Configuration
from ca.store.store import Store
from shared.model.errors import TouchmarkError
from shared.runtime.tasks import Tasks

if TYPE_CHECKING:  # Its client library takes 20 MiB, and is loaded in clusters only.
    from ca.runtime.cluster import Cluster

_log = structlog.get_logger("touchmark.ca")


@contextlib.asynccontextmanager
async def run_ca(configuration: Configuration, *, clock: Callable[[], float] = time.time) -> AsyncIterator[RunningCA]:
    """Run the CA for as long as the context lasts.

    Arguments:
        clock: seconds since the epoch.

    Raises:
        InputError, UnavailableError, ConflictError: a directory, port or socket can't be used; each says which.
    """
    async with contextlib.AsyncExitStack() as stack:
        directory = None
        if not configuration.database:
            directory = await stack.enter_async_context(
                wait_for_data_directory(configuration.data_dir, wait_s=configuration.lock_wait_s)
            )
        listeners = stack.enter_context(bind_listeners(configuration))
        metrics = Metrics()
        store, database_clock = await _open_store(stack, configuration, metrics, clock)
        kek = await _load_key(configuration, store)
        authorities = await Authorities.open(store, kek, now=clock())
        cluster = None
        if configuration.kubernetes:
            from ca.runtime.cluster import open_cluster

            cluster = await stack.enter_async_context(
                open_cluster(
                    configuration,
                    store=store,
                    authorities=authorities,
                    database_clock=database_clock,
                    metrics=metrics,
                    clock=clock,
                )
            )
        ca = await compose(
            configuration,
            listeners=listeners,
            directory=directory.with_store() if directory is not None else None,
            kek=kek,
            store=store,
            authorities=authorities,
            cluster=cluster,
            metrics=metrics,
            clock=clock,
            database_clock=database_clock,
        )
        tasks = Tasks(_note_failure)
        stack.push_async_callback(tasks.close, timeout_s=SHUTDOWN_S)
        await _start(stack, ca, cluster, tasks)
        await serve(stack, ca, listeners)
        stack.callback(ca.hub.end_all, "shutdown")
        yield ca


async def _open_store(
    stack: contextlib.AsyncExitStack, configuration: Configuration, metrics: Metrics, clock: Callable[[], float]
) -> tuple[Store, DatabaseClock]:
    store = await Store.open(
        configuration.database or configuration.data_dir,
        trust_domain=configuration.trust_domain,
        replica=_name_replica() if configuration.database else "",
    )
    stack.push_async_callback(store.close)
    database_clock = DatabaseClock(store, metrics=metrics, clock=clock)
    if configuration.database:
        await database_clock.check()  # Before anything is made or ended by this replica's clock.
        stack.push_async_callback(_leave, store)
    await store.sidecars.disconnect_all()
    return store, database_clock


async def _start(stack: contextlib.AsyncExitStack, ca: RunningCA, cluster: Cluster | None, tasks: Tasks) -> None:
    """Start what the CA does by itself."""
    publishing = Publishing(
        store=ca.store,
        authorities=ca.authorities,
        server_certificate=ca.server_certificate,
        hub=ca.hub,
        clock=ca.clock,
    )
    publishing.start(tasks)

    def is_leader() -> bool:
        return ca.cluster.is_leader and ca.database_clock.is_near

    upkeep = Upkeep(
        store=ca.store,
        authorities=ca.authorities,
        server_certificate=ca.server_certificate,
        hub=ca.hub,
        decisions=ca.decisions,
        programs=ca.programs,
        edges=EdgeRetention(
            ca.store, max_age_s=ca.configuration.edges_max_age_s, max_bytes=ca.configuration.edges_max_bytes
        ),
        is_leader=is_leader,
        laggards=Laggards(
            rotation=ca.rotation,
            hub=ca.hub,
            metrics=ca.metrics,
            is_leader=is_leader,
            clock=ca.clock,
            tell_pod=ca.cluster.tell_pod,
        ),
        gauges=Gauges(store=ca.store, hub=ca.hub, metrics=ca.metrics),
        metrics=ca.metrics,
        clock=ca.clock,
    )
    upkeep.start(tasks)
    if ca.signing is not None:
        tasks.spawn(ca.signing.run(), name="signing")
    tasks.spawn(ca.rotation.run(), name="rotation")
    for each in ca.forwarders:
        tasks.spawn(each.run(), name="forwarding")
    if ca.spans is not None:
        tasks.spawn(ca.spans.run(), name="tracing")
    if ca.configuration.database:
        sync = ReplicaSync(
            store=ca.store,
            authorities=ca.authorities,
            hub=ca.hub,
            foreign=ca.foreign,
            on_decisions=ca.decisions.note_arrival,
            database_clock=ca.database_clock,
            metrics=ca.metrics,
            clock=ca.clock,
        )
        await sync.start()
        tasks.spawn(sync.run(), name="following")
    if cluster is not None:
        context = ca.server_certificate.context
        await stack.enter_async_context(cluster.run(hub=ca.hub, rotation=ca.rotation, context=context, tasks=tasks))


async def _load_key(configuration: Configuration, store: Store) -> KeyEncryptionKey:
    sealed_by = next((name_sealing_key(r.sealed_key) for r in await store.authorities.list_all() if r.sealed_key), "")
    if not configuration.kek_secret or os.environ.get(ENVIRONMENT_VARIABLE):
        return load_key_encryption_key(configuration.kek_file, configuration.data_dir, sealed_by=sealed_by)
    from ca.kubernetes.api.client import ClusterClient
    from ca.kubernetes.api.kek_secret import load_key_secret

    client = await ClusterClient.open(configuration.kubeconfig)
    try:
        return await load_key_secret(
            client,
            namespace=configuration.namespace,
            name=configuration.kek_secret,
            sealed_by=sealed_by,
            now=time.time(),
        )
    finally:
        await client.close()


def _name_replica() -> str:
    """Return a name for this process unlike any other's: a pod's name is that of its earlier process, too."""
    return f"{socket.gethostname()[:63]}_{secrets.token_hex(8)}"


async def _leave(store: Store) -> None:
    try:
        await store.replicas.leave()
    except TouchmarkError as error:  # The others notice its silence.
        _log.warning("replica_not_left", message=error.message)


def _note_failure(name: str, error: BaseException) -> None:
    _log.error("task_failed", task=name, error=repr(error))
