"""A sidecar's life in the event loop: answer probes → join → compose → serve → drain.

Belongs here: that story, signals and sinks, and joining. Doesn't: what needs privileges (``prepare.py``), the parts
(``compose.py``), their start (``serve.py``) and their end (``drain.py``).
"""

from __future__ import annotations

import asyncio
import math
import signal
import time
from typing import TYPE_CHECKING

from shared.model.errors import MachineError, RefusedError
from shared.model.identity.identity import IdentityKind, Workload
from shared.model.version import VERSION
from shared.model.wire.messages import Registration, Welcome
from shared.runtime.interpreter import quicken_enumerations, share_lock
from shared.runtime.sinks import LineSink
from shared.runtime.tasks import Tasks
from sidecar.administration.answers import Answers
from sidecar.administration.local_socket import AdminSocket, open_admin_listener
from sidecar.administration.metrics import Metrics
from sidecar.capture.capturing import close_doors
from sidecar.control.opening import Opener, join
from sidecar.control.renewing import ByRenewal
from sidecar.control.uplink import Uplink
from sidecar.credential.credential import Credential, KeyRequest, accept_chain
from sidecar.events import Events
from sidecar.mesh.trust import Trust
from sidecar.probing.life import Life
from sidecar.probing.readiness import Readiness
from sidecar.probing.readiness_gate import ReadinessGate
from sidecar.runtime.compose import Joined, compose
from sidecar.runtime.drain import LAST_RECORDS_S, TASKS_END_S, drain
from sidecar.runtime.log_faults import Watched, watch_output
from sidecar.runtime.prepare import Prepared
from sidecar.runtime.serve import serve
from sidecar.runtime.shutdown import Shutdown
from sidecar.runtime.watchdog import Watchdog

if TYPE_CHECKING:
    from shared.model.kubernetes.contract import ProbeTarget
    from sidecar.probing.outcome import Outcome
    from sidecar.probing.server import ProbeServer


async def run(prepared: Prepared) -> None:
    """Run until SIGTERM or SIGINT, then drain; a second signal ends the draining.

    Raises:
        RefusedError: the CA refuses the join token; or the sidecar's certificate ended (``CertificateExpiredError``).
        VerificationError: the server isn't the CA that made the token.
    """
    share_lock()
    quicken_enumerations()
    shutdown = Shutdown()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, shutdown.signal)
    events_sink = LineSink(2)
    log_sink = LineSink(prepared.log, path=prepared.configuration.log_file)
    loop.add_signal_handler(signal.SIGHUP, log_sink.reopen)
    events = Events(events_sink, prepared.configuration.log_level)
    output_tasks = Tasks(events.fail)
    watched = (Watched(name="decisions", sink=log_sink), Watched(name="events", sink=events_sink))
    output_tasks.spawn(watch_output(*watched, events=events), name="output")
    try:
        await _run(prepared, events, log_sink, shutdown)
    finally:
        close_doors(prepared.doors)
        await output_tasks.close(timeout_s=TASKS_END_S)
        await asyncio.to_thread(log_sink.close, timeout_s=LAST_RECORDS_S)
        await asyncio.to_thread(events_sink.close, timeout_s=LAST_RECORDS_S)


async def _run(prepared: Prepared, events: Events, log_sink: LineSink, shutdown: Shutdown) -> None:
    opener = _make_opener(prepared)
    life = Life()
    probe_tasks = Tasks(events.fail)
    watchdog = Watchdog(hung_after_s=prepared.configuration.watchdog_s or math.inf)
    watchdog.start(asyncio.get_running_loop())
    metrics = Metrics(life, uplink=opener.uplink, events=events, take_max_lag_s=watchdog.take_max_lag_s)
    probes = _start_probes(prepared, opener.uplink, life, metrics, probe_tasks, events)
    admin_tasks = Tasks(events.fail)
    admin = _start_admin_socket(prepared, opener.uplink, life, admin_tasks, events)
    try:
        joined = await _join_or_stop(opener, events, shutdown)
        if joined is not None:
            parts = compose(prepared, opener, joined, events, log_sink)
            await serve(parts, prepared, life, events, shutdown)
            await drain(parts, life, events, log_sink, shutdown)
            if shutdown.error is not None:
                raise shutdown.error
    finally:
        if probes is not None:
            probes.close()
        if admin is not None:
            admin.close()
        await probe_tasks.close(timeout_s=TASKS_END_S)
        await admin_tasks.close(timeout_s=TASKS_END_S)
        watchdog.stop()


def _make_opener(prepared: Prepared) -> Opener:
    configuration = prepared.configuration
    return Opener(
        ca=prepared.ca,
        joining=prepared.joining,
        registration=Registration(
            instance=configuration.instance,
            version=VERSION,
            addresses=configuration.tunnel_addresses,
            tunnel_port=configuration.tunnel_port,
            capture=configuration.capture.value,
        ),
        uplink=Uplink(is_join_repeatable=prepared.joining.is_repeatable),
        mark=prepared.mark,
    )


def _start_probes(
    prepared: Prepared, uplink: Uplink, life: Life, metrics: Metrics, tasks: Tasks, events: Events
) -> ProbeServer | None:
    """Answer the kubelet from now on: it asks while the sidecar still joins."""
    if not prepared.probe_listeners:
        return None
    from sidecar.probing.perform import perform
    from sidecar.probing.server import ProbeServer

    configuration = prepared.configuration
    [address, *_] = configuration.tunnel_addresses or ("127.0.0.1",)
    gate = ReadinessGate(life)

    async def perform_and_judge(target: ProbeTarget) -> Outcome:
        return await gate.judge(target, address, await perform(target, address, mark=prepared.mark))

    server = ProbeServer(
        prepared.probe_listeners,
        targets=configuration.probes,
        judge=Readiness(life, find_fault=lambda: uplink.fault).judge,
        perform=perform_and_judge,
        render_metrics=metrics.render if configuration.serves_metrics else None,
        tasks=tasks,
        events=events,
    )
    server.start()
    return server


def _start_admin_socket(
    prepared: Prepared, uplink: Uplink, life: Life, tasks: Tasks, events: Events
) -> AdminSocket | None:
    """Answer `touchmark sidecar` from now on. Without the socket the sidecar works all the same."""
    configuration = prepared.configuration
    if not configuration.has_admin_socket:
        return None
    try:
        listener = open_admin_listener(configuration.instance)
    except MachineError as error:
        events.emit("admin_socket_unavailable", message=error.message)
        return None
    renewal = prepared.joining.renewal if isinstance(prepared.joining, ByRenewal) else None
    answers = Answers(life, instance=configuration.instance, uplink=uplink, events=events, renewal=renewal)
    server = AdminSocket(listener, answer=answers.answer, is_own_container=configuration.pod is not None, tasks=tasks)
    server.start()
    return server


async def _join_or_stop(opener: Opener, events: Events, shutdown: Shutdown) -> Joined | None:
    def accept(welcome: Welcome, request: KeyRequest) -> Joined:
        trust = Trust(welcome.bundle)
        own = _own_credential(welcome, request, trust, opener.joining.workload)
        return Joined(welcome=welcome, trust=trust, own=own)

    joining = asyncio.create_task(join(opener, accept, events), name="join")
    stopping = asyncio.create_task(shutdown.requested.wait(), name="stop")
    try:
        await asyncio.wait({joining, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return joining.result() if joining.done() else None
    finally:
        for task in (joining, stopping):
            task.cancel()
        await asyncio.wait({joining, stopping})


def _own_credential(welcome: Welcome, request: KeyRequest, trust: Trust, expected: Workload) -> Credential:
    own = accept_chain(request, welcome.chain, verifier=trust.verifier, generation=1, now=time.time())
    if own.identity.kind is not IdentityKind.SIDECAR or own.identity.workload != expected:
        raise RefusedError(f"the CA enrolled this sidecar as {own.identity.workload} and not as {expected}")
    return own
