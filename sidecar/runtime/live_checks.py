"""What is looked at while the sidecar runs: programs of live connections, holders of their sockets, ages, idle tunnels.

Belongs here: the rhythm. Doesn't: what each look does (``sidecar/connection/``, ``attest``, the connector).
"""

from __future__ import annotations

import asyncio
import time
from itertools import cycle
from typing import TYPE_CHECKING

from shared.model.errors import TouchmarkError
from shared.model.policy.reasons import Reason
from sidecar.attest.facts import AttestationError
from sidecar.connection.connection import is_without

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.connection.connection import Connection
    from sidecar.events import Events
    from sidecar.parts import Sidecar

_PERIOD_S = 1.0
_HOLDERS_BATCH = 1024
_AT_ONCE = 64
_IDLE_PAUSE_S = 0.2
_PROGRAMS_PERIOD_S = 0.05
_PASSES = 2  # In each period; what the first had no time for is the second's.


async def watch_ages(sidecar: Sidecar) -> None:
    """Write start records of long-lived connections, end what has lived or been idle for too long, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        sidecar.connections.record_long_lived(time.time())
        sidecar.connections.end_overdue(
            time.monotonic(), idle_s=sidecar.limits.idle_timeout_s, max_s=sidecar.limits.max_duration_s
        )
        sidecar.connector.reap(now=loop.time())
        await asyncio.sleep(_PERIOD_S)


async def watch_programs(sidecar: Sidecar, events: Events) -> None:
    """See that each live connection's program is still the attested one, until cancelled.

    An attested process may execute another program, which goes on with its descriptors. That no byte passes on an older
    look than 50 ms is the pumps' business, however late this is; here connections are closed that lie still.
    """
    passes = cycle([_PROGRAMS_PERIOD_S, *[0.0] * (_PASSES - 1)])
    while True:
        await asyncio.sleep(next(passes))  # Others have their turn between two passes.
        connections = sidecar.connections
        for attestation, error in sidecar.attestor.look_again(connections.list_attestations()):
            for connection in connections.list_of(attestation.execution):
                own = connection.parties.attestation or attestation
                if is_without(sidecar.attestor, own, error):
                    connection.be_orphaned()
                else:
                    _close_unproven(connection, error, events)


async def watch_holders(sidecar: Sidecar, events: Events) -> None:
    """Look for all holders of live connections' sockets, again and again, and close what is shared, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        batch: list[Connection] = []
        while len(batch) < _HOLDERS_BATCH and (found := sidecar.connections.next_unchecked(loop.time())) is not None:
            batch.append(found)
        if not batch:
            await asyncio.sleep(_IDLE_PAUSE_S)
            continue
        try:
            await _check_holders(sidecar, batch, events)
        finally:  # After a fault of ours as well, or they would never be looked at again.
            for connection in batch:
                sidecar.connections.note_checked(connection, loop.time())


async def _check_holders(sidecar: Sidecar, batch: list[Connection], events: Events) -> None:
    """Ask about each connection's socket, and follow each answer as it comes.

    One pass over all processes serves every connection that waits for it. A live one waits half its life: a task for
    each would be a good part of what an idle connection takes.
    """
    asked: dict[asyncio.Future[None], Connection] = {}
    # Each check makes up to three passes until one can tell. An earlier one could, or no byte would have passed: a
    # second check follows, and no third.
    asked_again: set[asyncio.Future[None]] = set()
    answers: asyncio.Queue[asyncio.Future[None]] = asyncio.Queue()
    take = answers.put_nowait

    def ask(connection: Connection) -> asyncio.Future[None] | None:
        attestation = connection.parties.attestation
        if attestation is None:
            return None
        try:
            answer = sidecar.attestor.check_holders(attestation)
        except AttestationError as error:
            _close_unproven(connection, error, events)
            return None
        asked[answer] = connection
        answer.add_done_callback(take)
        return answer

    try:
        for number, connection in enumerate(batch, 1):
            if connection.on_search is not None:
                _tell_search(connection, connection.on_search)
            ask(connection)
            if not number % _AT_ONCE:
                await asyncio.sleep(0)  # Others have their turn.
        number = 0
        while asked:
            answer = await answers.get()
            connection = asked.pop(answer)
            if _follow(connection, answer, events, is_last=answer in asked_again) and (later := ask(connection)):
                asked_again.add(later)
            number += 1
            if not number % _AT_ONCE:
                await asyncio.sleep(0)
    finally:
        for answer in asked:
            if not answer.cancel() and not answer.cancelled():
                answer.exception()  # Nobody follows it any more.


def _tell_search(connection: Connection, on_search: Callable[[], None]) -> None:
    try:
        on_search()
    except Exception as error:  # A fault of ours must not keep the others of each batch from being looked at.
        connection.revoke(Reason.INTERNAL_ERROR, f"{type(error).__name__}: {error}"[:300])


def _follow(connection: Connection, answer: asyncio.Future[None], events: Events, *, is_last: bool) -> bool:
    """Do as an answer says; return whether it couldn't tell, and another check may."""
    if answer.cancelled():  # The attestor was closed.
        return False
    try:
        answer.result()
        connection.note_cleared()
    except AttestationError as error:
        if error.reason is Reason.HOLDERS_UNKNOWN and not connection.is_revoked and not is_last:
            return True
        _close_unproven(connection, error, events)
    except (TouchmarkError, OSError) as error:
        events.emit("holders_not_checked", connection=connection.id, reason="", message=str(error)[:300])
    return False


def _close_unproven(connection: Connection, error: AttestationError, events: Events) -> None:
    """Close a connection whose program isn't proven any more, or tell it once for each reason."""
    connection.lose_proof(error.reason, error.message)
    if not connection.is_revoked and error.reason not in connection.unproven:
        connection.unproven |= {error.reason}
        events.emit("program_not_proven", connection=connection.id, reason=error.reason, message=error.message)
