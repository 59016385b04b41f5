"""What is looked at while the sidecar runs: holders of new connections' sockets, long-lived connections, idle tunnels.

Belongs here: the rhythm. Doesn't: what each look does (``sidecar/connection/``, ``attest``, the connector).
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from shared.model.errors import TouchmarkError
from shared.model.policy.reasons import Reason
from sidecar.attest.facts import AttestationError

if TYPE_CHECKING:
    from sidecar.connection.connection import Connection
    from sidecar.events import Events
    from sidecar.parts import Sidecar

_PERIOD_S = 1.0
_HOLDERS_BATCH = 1024
_IDLE_PAUSE_S = 0.2


async def watch_ages(sidecar: Sidecar) -> None:
    """Write start records of long-lived connections and close tunnels that were idle for too long, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        sidecar.connections.record_long_lived(time.time())
        sidecar.connector.reap(now=loop.time())
        await asyncio.sleep(_PERIOD_S)


async def watch_holders(sidecar: Sidecar, events: Events) -> None:
    """Look for further holders of each new connection's socket and close what is shared, until cancelled."""
    while True:
        batch: list[Connection] = []
        while len(batch) < _HOLDERS_BATCH and (connection := sidecar.connections.next_unchecked()) is not None:
            batch.append(connection)
        if not batch:
            await asyncio.sleep(_IDLE_PAUSE_S)
            continue
        # One pass over all processes serves every connection that waits for it.
        async with asyncio.TaskGroup() as group:
            for connection in batch:
                group.create_task(_check_holders(sidecar, connection, events), name="holders of one socket")


async def _check_holders(sidecar: Sidecar, connection: Connection, events: Events) -> None:
    if connection.parties.attestation is None:
        return
    try:
        await sidecar.attestor.check_holders(connection.parties.attestation)
    except AttestationError as error:
        if error.reason is Reason.SOCKET_SHARED:
            connection.revoke(error.reason, error.message)
        else:
            events.emit("holders_not_checked", connection=connection.id, reason=error.reason, message=error.message)
    except (TouchmarkError, OSError) as error:
        events.emit("holders_not_checked", connection=connection.id, reason="", message=str(error)[:300])
