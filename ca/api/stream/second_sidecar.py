"""A second sidecar under the name of one that lives: the first stays, the second is refused and reported. I/O.

Belongs here: whether the first one lives, and what is reported of the second. Doesn't: who may join (``joining.py``),
or the transaction in which both would meet (``ca/store/sidecars.py``).

A sidecar that was restarted comes with another key as well. It differs in this: the stream of the one before has ended,
or nobody answers on it. Which of two that live is genuine the CA can't tell. It keeps the one that it has, because the
other way round whoever gets hold of a pod's token would take its place at any time; this way only while the pod's own
sidecar has no stream.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar
from weakref import WeakValueDictionary

import structlog

from ca.authenticate.sidecar_certificate import OlderKeyError
from ca.distribution.hub import Hub
from ca.distribution.live_connections import Survey
from ca.distribution.session import Session
from ca.metrics import Metrics
from ca.store.sidecars import SecondSidecarError
from ca.store.store import Store
from shared.model.errors import UnavailableError

# The second one waits for its welcome that long at least: 15 s (``sidecar/control/opening.py``).
ANSWER_DEADLINE_S: Final = 5.0
_LOOK_AGAIN_S: Final = 0.2
# Of one name at once. One that works waits with one stream, and with another where it has given that one up. Each holds
# a message and perhaps a connection, for seconds where the one before doesn't answer.
MAX_TAKING_TURNS: Final = 8
# A sidecar that opens more streams than this during the question lives.
_ROUNDS: Final = 3

_T = TypeVar("_T")
_log = structlog.get_logger("touchmark.ca")


@dataclass(slots=True, weakref_slot=True, eq=False)
class _Turns:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    count: int = 0


class SecondSidecars:
    """Decides between a sidecar that is connected and one that comes under its name."""

    def __init__(
        self,
        *,
        store: Store,
        hub: Hub,
        survey: Survey,
        metrics: Metrics,
        clock: Callable[[], float],
        tell_pod: Callable[[str, str, str], None] = lambda *_: None,
    ) -> None:
        self._tell_pod = tell_pod
        self._store = store
        self._hub = hub
        self._survey = survey
        self._metrics = metrics
        self._clock = clock
        self._turns: WeakValueDictionary[str, _Turns] = WeakValueDictionary()

    @contextlib.asynccontextmanager
    async def take_turn(self, instance: str) -> AsyncIterator[None]:
        """Hold a name's turn until the session is open: else of two that join at once none would see the other.

        Raises:
            UnavailableError: too many wait for it already.
        """
        turns = self._turns.setdefault(instance, _Turns())
        if turns.count >= MAX_TAKING_TURNS:
            raise UnavailableError("too many join under this sidecar's name at once", hint="it tries again by itself")
        turns.count += 1
        try:
            async with turns.lock:
                yield
        finally:
            turns.count -= 1

    async def enter(
        self, instance: str, enter: Callable[[float | None], Awaitable[_T]], *, how: str, origin: str
    ) -> _T:
        """Enter a sidecar, in the place of one whose stream is noted as open only if nobody answers on it.

        The one that didn't answer is replaced, and no stream that it opened since: then it is asked again.

        Arguments:
            enter: enters it; its argument is ``replaces`` of ``Sidecars.enter``.
            origin: the address that it comes from.

        Raises:
            SecondSidecarError: the first one lives. It is noted.
            TouchmarkError: as ``enter``.
        """
        replaces: float | None = None
        for is_last in (*[False] * _ROUNDS, True):
            try:
                entered = await enter(replaces)
            except SecondSidecarError as error:
                if is_last or await self._is_alive(instance):
                    await self.note(instance, how=how, origin=origin)
                    raise
                replaces = error.registered
            else:
                break
        if replaces is not None:
            _log.info("sidecar_replaced", instance=instance, how=how, origin=origin)
        return entered

    async def check_older(self, error: OlderKeyError, *, origin: str) -> None:
        """Note that a sidecar came back by an older key, if one with the newer key lives: both have lived at once.

        Raises:
            SecondSidecarError: it does.
        """
        if await self._is_alive(error.instance):
            await self.note(error.instance, how="resume", origin=origin)
            raise SecondSidecarError(error.instance) from error

    async def _is_alive(self, instance: str) -> bool:
        asked: Session | None = None
        for _ in range(_ROUNDS):
            session = await self._find_session(instance)
            if session is None or session is asked:
                return await self._store.sidecars.is_open_elsewhere(instance, now=self._clock())
            if await self._survey.is_answering(session, timeout_s=ANSWER_DEADLINE_S):
                return True
            asked = session  # It may have opened another stream since, which ends the one that was asked.
        return True

    async def _find_session(self, instance: str) -> Session | None:
        """Return the open session. Where the store alone says that there is one, look again for a while.

        It may be about to open, or its end isn't noted yet.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + ANSWER_DEADLINE_S
        while (session := self._hub.get(instance)) is None and loop.time() < until:
            now = self._clock()
            is_here = await self._store.sidecars.is_open_here(instance, now=now)
            if not is_here and not await self._store.sidecars.is_open_elsewhere(instance, now=now):
                return self._hub.get(instance)
            await asyncio.sleep(_LOOK_AGAIN_S)
        return session

    async def note(self, instance: str, *, how: str, origin: str) -> None:
        """Note that two have come as this sidecar."""
        self._metrics.second_sidecars.labels(how=how).inc()
        number = await self._store.sidecars.note_second(instance, origin=origin, now=self._clock())
        note = f"A second sidecar with this pod's token, from {origin}, was refused: the token may be in other hands"
        self._tell_pod(instance, "SecondSidecar", note)
        _log.warning("second_sidecar", instance=instance, how=how, origin=origin, number=number)
