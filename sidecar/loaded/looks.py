"""When processes' loaded code is looked at: once for each ``execve``, again when the last look is too old.

Belongs here: the looks that are known, each made once however many wait. Doesn't: one look (``measured_code.py``), what
follows from it (``sidecar/code_check.py``), the rhythm for live connections (``sidecar/runtime/live_checks.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import msgspec

from shared.model.identity.loaded_code import LoadedCode
from shared.model.identity.program import Program
from shared.model.policy.reasons import Reason
from shared.runtime.patience import Patience
from sidecar.attest.facts import Attestation, AttestationError, Execution
from sidecar.loaded.measured_code import CodeMeasuring, Look

# No connection of a program that may only load what is approved begins on an older look.
MAX_AGE_S = 1.0
# An execution keeps two descriptors open while it is kept here.
_MAX_KEPT = 512
_MAX_PENDING = 1_024
_MAX_BACKGROUND = 64
_UNHURRIED_PERIOD_S = 1.0
_TELL_PERIOD_S = 1_800.0
# Who accepts where nothing compares what it has loaded: a connection waits so long for its look, of each program once a
# second, and ever more seldom while nothing new is found.
_ACCEPTOR_WAIT_S = 2.0
_ACCEPTOR_PERIOD_S = 1.0
_ACCEPTOR_MAX_PERIOD_S = 60.0
_MAX_SETS = 8  # Of loaded code, of one program: workers of one server mostly load the same.
_TELL_AGAIN_S = 30.0  # After what was told had no room on its way.
# The CA takes records, and descriptions of loaded code, of at most 64 KiB; this many are for the objects.
_MAX_TOLD_BYTES = 40_000

_encode = msgspec.json.Encoder().encode

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SeenCode:
    """What an execution had loaded at one look. Two are equal only when they are the same object.

    Attributes:
        at: the loop's time of the look.
    """

    look: Look
    at: float

    @property
    def code(self) -> LoadedCode:
        """The loaded code; the same object as at the look before, where nothing has changed."""
        return self.look.code


class _Acceptors(msgspec.Struct, frozen=True, kw_only=True):
    """Who accepts a program's connections.

    Attributes:
        due: when one of them is looked at next (``time.monotonic``).
        period_s: from one look to the next.
        sets: hashes of what some of them had loaded, the newest last.
    """

    due: float
    period_s: float = _ACCEPTOR_PERIOD_S
    sets: tuple[int, ...] = ()


class CodeLooks:
    """Belongs to one event loop.

    Arguments:
        max_bytes: a larger file isn't hashed.
        deadline_s: how long connections may wait for looks while none of these ends.
    """

    def __init__(self, *, max_bytes: int = 1 << 30, deadline_s: float = 10.0) -> None:
        self._measuring = CodeMeasuring(max_bytes=max_bytes)
        self._patience = Patience(deadline_s)
        # What nobody waits for has a thread of its own: a stranger's gigabyte must not delay an approved program.
        self._awaited = ThreadPoolExecutor(2, thread_name_prefix="code-look")
        self._unhurried = ThreadPoolExecutor(1, thread_name_prefix="code-report")
        self._seen: OrderedDict[Execution, SeenCode] = OrderedDict()
        self._running: dict[Execution, asyncio.Task[SeenCode]] = {}
        self._background: dict[Execution, asyncio.Task[SeenCode]] = {}
        self._unhurried_until: OrderedDict[Program, float] = OrderedDict()
        self._acceptors: OrderedDict[Program, _Acceptors] = OrderedDict()
        # Until when it counts as told, and what was told.
        self._told: OrderedDict[tuple[Program, LoadedCode], tuple[float, LoadedCode]] = OrderedDict()
        self._told_of: OrderedDict[Execution, tuple[LoadedCode, float]] = OrderedDict()

    def close(self) -> None:
        """End the looks under way."""
        for running in (*self._running.values(), *self._background.values()):
            running.cancel()
        self._awaited.shutdown(wait=False, cancel_futures=True)
        self._unhurried.shutdown(wait=False, cancel_futures=True)

    def get(self, execution: Execution) -> SeenCode | None:
        """Return what the last look saw, however old; never waits."""
        return self._seen.get(execution)

    def get_fresh(self, execution: Execution) -> SeenCode | None:
        """Return what the last look saw, if it is younger than ``MAX_AGE_S``; never waits."""
        seen = self._seen.get(execution)
        if seen is None or asyncio.get_running_loop().time() - seen.at > MAX_AGE_S:
            return None
        return seen

    def describe(self, attestation: Attestation) -> LoadedCode | None:
        """Return what the last look saw, as far as a message has room for it; None: there was none."""
        seen = self._seen.get(attestation.execution)
        return None if seen is None else _cut(seen.code)

    async def look(self, execution: Execution) -> SeenCode:
        """Look now; everybody who asks while a look is under way gets its answer.

        Raises:
            AttestationError: as ``CodeMeasuring.look``; ``deadline_exceeded``; ``overloaded``.
        """
        running = self._running.get(execution)
        if running is None:
            if len(self._running) >= _MAX_PENDING:
                raise AttestationError("too many looks at loaded code under way", reason=Reason.OVERLOADED)
            running = self._start(execution, self._awaited, self._running)
        try:
            async with self._patience.wait():
                return await asyncio.shield(running)
        except TimeoutError as error:
            raise AttestationError("measuring loaded code took too long", reason=Reason.DEADLINE_EXCEEDED) from error

    def look_unhurried(self, attestation: Attestation) -> None:
        """Have an execution looked at for the record alone, unless that was done or too many wait.

        Of each program at most one execution a second: short ones that start by the hundreds load the same.
        """
        execution = attestation.execution
        if execution in self._seen or execution in self._background or len(self._background) >= _MAX_BACKGROUND:
            return
        now = asyncio.get_running_loop().time()
        if now < self._unhurried_until.get(attestation.program, 0.0):
            return
        _put(self._unhurried_until, attestation.program, now + _UNHURRIED_PERIOD_S)
        self._start(execution, self._unhurried, self._background)

    def take_turn(self, program: Program) -> bool:
        """Tell whether who accepts this connection is to be looked at even where nothing compares what it has loaded.

        If so, no other connection of the program is to be for a second. A turn may come to nothing: the CA, which isn't
        told then, says so.
        """
        now, known = _read_clock(), self._acceptors.get(program)
        if known is None:
            _put(self._acceptors, program, _Acceptors(due=now + _ACCEPTOR_PERIOD_S))
            return True
        if now < known.due:
            return False
        _put(self._acceptors, program, msgspec.structs.replace(known, due=now + known.period_s))
        return True

    async def look_at_acceptor(self, attestation: Attestation) -> SeenCode | None:
        """Look at who has accepted a connection whose turn it is; None: it couldn't be seen within two seconds.

        It waits, but for other programs' looks no longer than that: a process that ends with its answer is seen before
        it gets the request, or never.
        """
        execution = attestation.execution
        running = self._running.get(execution)
        if running is None:
            if len(self._background) >= _MAX_BACKGROUND:
                return None
            running = self._background.get(execution) or self._start(execution, self._unhurried, self._background)
        try:
            async with asyncio.timeout(_ACCEPTOR_WAIT_S):
                seen = await asyncio.shield(running)
        except (TimeoutError, AttestationError):
            return None
        known = self._acceptors.get(attestation.program)
        if known is not None:
            found = hash(seen.code)
            is_new = found not in known.sets
            sets = (*known.sets, found)[-_MAX_SETS:] if is_new else known.sets
            period_s = _ACCEPTOR_PERIOD_S if is_new else min(2.0 * known.period_s, _ACCEPTOR_MAX_PERIOD_S)
            due = _read_clock() + period_s
            self._acceptors[attestation.program] = _Acceptors(due=due, period_s=period_s, sets=sets)
        return seen

    def forget_ended(self) -> None:
        """Let go of executions that have ended; a few microseconds for each that is kept."""
        for execution in [each for each in self._seen if _has_ended(each)]:
            del self._seen[execution]
            self._told_of.pop(execution, None)

    def tell(self, attestation: Attestation) -> LoadedCode | None:
        """Return the loaded code for one record in half an hour of each program and set of objects; else None."""
        execution = attestation.execution
        seen = self._seen.get(execution)
        if seen is None:
            return None
        now, last = asyncio.get_running_loop().time(), self._told_of.get(execution)
        if last is not None and last[0] is seen.code and now < last[1]:
            return None
        key = (attestation.program, seen.code)
        told = self._told.get(key)
        is_due = told is None or now >= told[0]
        if told is None or is_due:
            told = now + _TELL_PERIOD_S, _cut(seen.code)
        _put(self._told, key, told)
        _put(self._told_of, execution, (seen.code, told[0]))
        return told[1] if is_due else None

    def tell_again(self, code: LoadedCode) -> None:
        """What ``tell`` has returned was lost on its way: return it again before the half hour is over."""
        due = asyncio.get_running_loop().time() + _TELL_AGAIN_S
        concerned = {id(key[1]) for key, (_, told) in self._told.items() if told is code}
        for key, (until, told) in self._told.items():
            if told is code:
                self._told[key] = min(until, due), told
        for execution, (seen, until) in self._told_of.items():
            if id(seen) in concerned:
                self._told_of[execution] = seen, min(until, due)

    def _start(
        self, execution: Execution, workers: ThreadPoolExecutor, register: dict[Execution, asyncio.Task[SeenCode]]
    ) -> asyncio.Task[SeenCode]:
        work = self._look_once(execution, workers)
        running = asyncio.get_running_loop().create_task(work, name=f"code-of-{execution.pid}")
        register[execution] = running
        running.add_done_callback(partial(_finish, execution, register))
        return running

    async def _look_once(self, execution: Execution, workers: ThreadPoolExecutor) -> SeenCode:
        loop = asyncio.get_running_loop()
        before = self._seen.get(execution)
        at = loop.time()
        look = await loop.run_in_executor(
            workers, self._measuring.look, execution, None if before is None else before.look
        )
        if workers is self._awaited:
            self._patience.note_progress()
        seen = SeenCode(look=look, at=at)
        _put(self._seen, execution, seen)
        return seen


def _read_clock() -> float:
    return time.monotonic()


def _has_ended(execution: Execution) -> bool:
    try:
        return not execution.is_current()
    except OSError:
        return True


def _cut(code: LoadedCode) -> LoadedCode:
    """Leave out objects that a record has no room for."""
    room = _MAX_TOLD_BYTES
    for number, each in enumerate(code.objects):
        room -= len(_encode(each)) + 1  # As it is sent: a path may consist of quotes, two bytes each.
        if room < 0:
            omitted = code.omitted + len(code.objects) - number
            return LoadedCode(objects=code.objects[:number], anonymous=code.anonymous, omitted=omitted)
    return code


def _put(kept: OrderedDict[_Key, _Value], key: _Key, value: _Value) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > _MAX_KEPT:
        kept.popitem(last=False)


def _finish(
    execution: Execution, register: dict[Execution, asyncio.Task[SeenCode]], done: asyncio.Task[SeenCode]
) -> None:
    del register[execution]
    with contextlib.suppress(asyncio.CancelledError, AttestationError):
        done.result()  # Retrieved here as well: every waiter may have been cancelled.
