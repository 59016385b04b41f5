"""The threads that compute handshakes beside the event loop: OpenSSL releases the interpreter's lock.

Belongs here: running one step in such a thread. Doesn't: when a handshake may begin (``handshake_gate.py``), its I/O
(``handshake.py``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from sidecar.tls.role import Role

_T = TypeVar("_T")

# One thread for each role: what this pod dials never waits behind what strangers ask for. They start when first used.
_workers: Final = {
    role: ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"tls-{role.name.lower()}") for role in Role
}


async def compute(loop: asyncio.AbstractEventLoop, role: Role, step: Callable[[], _T]) -> _T:
    """Run one step in its role's thread; return its result or raise its error.

    Cancelled, it still waits for a step that has begun: that uses the connection's descriptor, which its owner closes.
    """
    running = _workers[role].submit(step)
    result = asyncio.wrap_future(running, loop=loop)
    try:
        return await asyncio.shield(result)
    except asyncio.CancelledError:
        if not running.cancel():
            while not result.done():
                await _wait_undisturbed(result)
            result.exception()  # Seen, though of no interest any more.
        raise
    finally:
        # A failed step's traceback holds this frame. With them in it that were a cycle, and the collector, which then
        # frees many failed handshakes at once, would hold the event loop up for milliseconds.
        del running, result


async def _wait_undisturbed(result: asyncio.Future[_T]) -> None:
    try:
        await asyncio.wait({result})
    except asyncio.CancelledError:
        return  # The first cancellation is raised on, once the step has ended.
