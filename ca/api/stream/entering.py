"""A peer may leave while its sidecar is entered in the store: no stream comes of it, and that is noted. I/O: the store.

Belongs here: the end of what was begun. Doesn't: the transaction (``ca/store/enrolment.py``), or the end of a stream
that was opened (``joining.py``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import structlog

from ca.distribution.hub import Hub
from ca.store.records import JoinGrant, SidecarRecord
from ca.store.store import Store
from shared.model.errors import TouchmarkError

_T = TypeVar("_T", bound=SidecarRecord | tuple[JoinGrant, SidecarRecord])
_log = structlog.get_logger("touchmark.ca")


async def finish_entering(entering: Coroutine[Any, Any, _T], *, store: Store, hub: Hub) -> _T:
    """Enter a sidecar, and wait for the outcome even when cancelled: what has begun is committed all the same.

    A sidecar that stayed noted as connected without a stream would count as alive, and be waited for, until the CA is
    restarted.

    Arguments:
        entering: the transaction that notes the sidecar as connected.
    """
    task = asyncio.ensure_future(entering)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled() and task.exception() is None:
            result = task.result()
            await _note_left(result if isinstance(result, SidecarRecord) else result[1], store=store, hub=hub)
        raise


async def _note_left(record: SidecarRecord, *, store: Store, hub: Hub) -> None:
    if hub.get(record.instance) is not None:
        return  # An earlier stream is still open, or a later one already.
    try:
        await store.sidecars.mark_left(record)
    except TouchmarkError as error:
        _log.warning("sidecar_not_marked", instance=record.instance, code=error.code, message=error.message)
