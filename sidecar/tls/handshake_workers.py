"""The threads that compute handshakes beside the event loop: OpenSSL releases the interpreter's lock.

Belongs here: running one step in such a thread. Doesn't: when a handshake may begin (``handshake_gate.py``), its I/O
(``handshake.py``). A handshake has four steps of a few hundred microseconds. Handing one over costs half of what a
``ThreadPoolExecutor`` with its futures takes: there is one queue, and one call back to the loop.

Steps of handshakes that have begun come before others' first ones: of 32 handshakes that begin at once each would
otherwise wait for the first steps of all, and all would end together, at the end. But peers choose into how many steps
they cut their messages, byte by byte if they like: after ``_MOST_BEGUN`` such steps one of the first ones comes.

A step of a handshake that rests on a secret computes for about as long as handing it over takes. It runs on the loop
itself, where this turn of the loop hasn't had its share of them.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

from sidecar.tls.role import Role

_T = TypeVar("_T")
# By then a step has ended, whatever it computes.
_LAST_STEP_S: Final = 5.0
# A handshake that is cut into no more steps than it has takes three after its first one.
_MOST_BEGUN: Final = 8
# Short steps on the loop, of 0.03 to 0.2 ms each, until it has come to what waited then. As a burst's last ones may
# come before its count begins anew, twice as many come one after another at the most: 5 ms of a responder's first ones.
# With fewer a burst costs more: the others are handed over or, where they wait for the loop, come in smaller batches.
_MOST_HERE: Final = 12


class _Step:
    """One step that was handed over."""

    __slots__ = ("_ended", "_error", "_has_begun", "_has_ended", "_is_cancelled", "_lock", "_loop", "_result", "_work")

    def __init__(self, loop: asyncio.AbstractEventLoop, work: Callable[[], Any]) -> None:
        self._loop = loop
        self._work = work
        self._lock = threading.Lock()
        self._has_begun = self._has_ended = self._is_cancelled = False
        self._ended: asyncio.Future[None] = loop.create_future()
        self._result: Any = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """Run it, in the worker's thread."""
        with self._lock:
            if self._is_cancelled:
                return
            self._has_begun = True
        try:
            self._result = self._work()
        except BaseException as error:  # Whatever it is: it is raised where the step is awaited.
            self._error = error
        with suppress(RuntimeError):  # The loop has been closed: nothing waits for it.
            self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        self._has_ended = True
        if not self._ended.done():
            self._ended.set_result(None)

    async def wait(self) -> Any:
        """Return the step's result, or raise its error; cancelled, wait all the same for one that has begun."""
        try:
            await self._ended
        except asyncio.CancelledError:
            with self._lock:
                self._is_cancelled = True
            while self._has_begun and not self._has_ended:
                self._ended = self._loop.create_future()
                with suppress(asyncio.CancelledError):  # The first one is raised on, once the step has ended.
                    await self._ended
            self._error = None  # Of no interest any more, and it holds this step.
            raise
        # A failed step's traceback holds the frames that it passed. With the error in them that were a cycle, and the
        # collector, which then frees many failed handshakes at once, would hold the event loop up for milliseconds.
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
            return self._result
        finally:
            del error


class _Worker:
    """One thread, started when it is first used, and ended with the interpreter."""

    def __init__(self, name: str) -> None:
        self._name = name
        # As many entries as steps wait, and what wakes the thread: False for the last one.
        self._wanted: SimpleQueue[bool] = SimpleQueue()
        self._begun: deque[_Step] = deque()
        self._first: deque[_Step] = deque()
        self._thread: threading.Thread | None = None

    def submit(self, step: _Step, *, is_first: bool) -> None:
        """Run a step after those of its kind that were handed over before. Called by one thread."""
        if self._thread is None:
            thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            thread.start()  # It may fail, where a pod may have no more threads, and is tried again then.
            self._thread = thread
            # OpenSSL must not be computing while the process's exit takes it down.
            atexit.register(self._stop)
        (self._first if is_first else self._begun).append(step)
        self._wanted.put(True)

    def _work(self) -> None:
        in_a_row = 0
        while self._wanted.get():
            is_begun = bool(self._begun) and not (self._first and in_a_row >= _MOST_BEGUN)
            in_a_row = in_a_row + 1 if is_begun else 0
            step = (self._begun if is_begun else self._first).popleft()
            step.run()
            del step  # It holds a connection, and the next one may be long in coming.

    def _stop(self) -> None:
        self._wanted.put(False)
        if self._thread is not None:
            self._thread.join(_LAST_STEP_S)


class _Turn:
    """How many steps one event loop may still compute itself, until it has come round."""

    __slots__ = ("__weakref__", "_left")

    def __init__(self) -> None:
        self._left = _MOST_HERE

    def take(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Count a step, if there is room for it."""
        if not self._left:
            return False
        if self._left == _MOST_HERE:
            loop.call_soon(self._begin)
        self._left -= 1
        return True

    def _begin(self) -> None:
        self._left = _MOST_HERE


_turns: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, _Turn]] = WeakKeyDictionary()
# One thread for each role: what this pod dials never waits behind what strangers ask for.
_workers: Final = {role: _Worker(f"tls-{role.name.lower()}") for role in Role}


async def compute(
    loop: asyncio.AbstractEventLoop,
    role: Role,
    work: Callable[[], _T],
    *,
    is_first: bool = True,
    is_short: bool = False,
) -> _T:
    """Run one step in its role's thread, or on the loop; return its result or raise its error.

    Arguments:
        is_first: of its handshake: those that have begun come before it.
        is_short: it verifies nothing and signs nothing: it may run on the loop.

    Cancelled, it still waits for a step that has begun: that uses the connection's descriptor, which its owner closes.
    """
    if is_short:
        turn = _turns.get(loop)
        if turn is None:
            turn = _turns[loop] = _Turn()
        if turn.take(loop):
            return work()
    step = _Step(loop, work)
    _workers[role].submit(step, is_first=is_first)
    result: _T = await step.wait()
    return result
