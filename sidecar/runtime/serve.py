"""Starts the parts of a sidecar that has joined and lets them run until it is asked to stop.

Belongs here: the order of starting. Doesn't: joining (``run.py``), ending (``drain.py``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from shared.runtime.interpreter import settle_collector
from sidecar.control.feed import CertificateExpiredError, Feed
from sidecar.events import Events
from sidecar.native.engine import current_engine, current_workers
from sidecar.probing.life import Life
from sidecar.runtime.compose import Composition
from sidecar.runtime.live_checks import watch_ages, watch_holders, watch_programs
from sidecar.runtime.live_code import watch_code
from sidecar.runtime.prepare import Prepared
from sidecar.runtime.shutdown import Shutdown

_AFTER_FAULT_S: Final = 1.0


async def serve(parts: Composition, prepared: Prepared, life: Life, events: Events, shutdown: Shutdown) -> None:
    """Accept connections until a stop is requested, or the sidecar's certificate has ended for good.

    Raises:
        MachineError: connections are to be held, and the kernel gives no queue for it.
    """
    parts.dispatch.acknowledge(parts.welcome)
    background, sidecar = parts.background, parts.sidecar
    background.spawn(_keep_feeding(parts.feed, events, shutdown), name="feed")
    looks: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
        "credentials ahead of peers": parts.ahead.run,
        "ages": partial(watch_ages, sidecar),
        "holders": partial(watch_holders, sidecar, events),
        "programs": partial(watch_programs, sidecar, events),
        "loaded code": partial(watch_code, sidecar, events),
    }
    if sidecar.sightings is not None:
        looks["sightings"] = sidecar.sightings.run
    if sidecar.hosts is not None:
        looks["host names"] = sidecar.hosts.run
    for name, look in looks.items():
        background.spawn(keep_looking(look, name, events), name=name)
    parts.capturing.start()
    if parts.held_connects is not None:
        parts.held_connects.start()
    elif prepared.unheld_because:
        events.emit("connects_not_held", message=prepared.unheld_because[:500])
    life.begin_serving(sidecar, has_expired=parts.feed.has_expired)
    settle_collector()
    events.emit(
        "sidecar_ready",
        workload=str(sidecar.workload),
        instance=sidecar.instance,
        capture=prepared.configuration.capture.value,
        mode=sidecar.policies.mode.value,
        pages_locked=prepared.pages_locked,
        engine=current_engine().value,
        workers=current_workers(),
        holds_connects=prepared.hold.value,
        ca_version=parts.opener.uplink.ca_version,
    )
    await shutdown.requested.wait()


async def keep_looking(look: Callable[[], Coroutine[Any, Any, None]], name: str, events: Events) -> None:
    """Look until cancelled: a fault of ours in one look must not end the later ones, which close what isn't proven.

    Arguments:
        look: looks again and again, until cancelled.
        name: of the task, in events.
    """
    while True:
        try:
            await look()
        except Exception as error:
            events.fail(name, error)
        await asyncio.sleep(_AFTER_FAULT_S)


async def _keep_feeding(feed: Feed, events: Events, shutdown: Shutdown) -> None:
    while True:
        try:
            await feed.run()
            return
        except CertificateExpiredError as error:
            events.emit("certificate_expired", message=error.message, hint=error.hint)
            shutdown.give_up(error)
            return
        except Exception as error:  # A fault of ours must not leave the sidecar deaf for ever.
            events.fail("feed", error)
            await asyncio.sleep(1)
