"""How many questions of readers are answered at once, in all and of one caller. No I/O.

Belongs here: turns, how many may wait for one, and how long a question may take. Doesn't: who may ask what
(``roles.py``). A caller's questions beyond its turns wait behind each other, so that others' pass them by.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

from shared.model.errors import TooManyRequestsError, UnavailableError

AT_ONCE: Final = 4
AT_ONCE_OF_ONE: Final = 2
MAX_ASKED: Final = 32  # Waiting or being answered.
MAX_ASKED_OF_ONE: Final = 8
DEADLINE_S: Final = 60.0  # From the request to the answer, with the waiting.


@dataclass(frozen=True, slots=True, kw_only=True)
class _Caller:
    turn: asyncio.Semaphore
    asked: set[object] = field(default_factory=set)


class Turns:
    """The turns of one kind of question.

    Arguments:
        at_once, at_once_of_one: how many are answered at once, in all and of one caller.
        most, most_of_one: how many are answered or wait.
        deadline_s: for waiting and answering together.
    """

    def __init__(
        self,
        *,
        at_once: int = AT_ONCE,
        at_once_of_one: int = AT_ONCE_OF_ONE,
        most: int = MAX_ASKED,
        most_of_one: int = MAX_ASKED_OF_ONE,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self._turn = asyncio.Semaphore(at_once)
        self._at_once_of_one = at_once_of_one
        self._most = most
        self._most_of_one = most_of_one
        self._deadline_s = deadline_s
        self._callers: dict[str, _Caller] = {}

    @contextlib.asynccontextmanager
    async def take(self, caller: str) -> AsyncIterator[None]:
        """Wait for a turn, and hold it for as long as the context lasts.

        Raises:
            TooManyRequestsError: too many wait already.
            UnavailableError: the deadline is over.
        """
        mine = self._callers.get(caller) or _Caller(turn=asyncio.Semaphore(self._at_once_of_one))
        if len(mine.asked) >= self._most_of_one:
            raise TooManyRequestsError(
                f"{len(mine.asked)} questions of this caller are being answered already",
                hint="wait for one of them to be answered",
            )
        if sum(len(each.asked) for each in self._callers.values()) >= self._most:
            raise TooManyRequestsError("the CA answers too many questions now", hint="try again in a moment")
        this = object()
        self._callers[caller] = mine
        mine.asked.add(this)
        try:
            async with asyncio.timeout(self._deadline_s), mine.turn, self._turn:
                yield
        except TimeoutError as error:
            raise UnavailableError(
                f"the question took more than {self._deadline_s:.0f} s",
                hint="ask about a shorter time, or about one namespace or workload",
            ) from error
        finally:
            mine.asked.discard(this)
            if not mine.asked:
                del self._callers[caller]
