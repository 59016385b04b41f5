"""Questions are answered a few at once, in all and of one caller (``ca.api.access.turns``)."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from ca.api.access.turns import Turns
from shared.model.errors import TooManyRequestsError, UnavailableError
from tests.ca.running import eventually


class Asking:
    """Callers who hold their turns until they are told to end."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self.answered: list[str] = []
        self.end = asyncio.Event()

    async def ask(self, who: str) -> None:
        async with self._turns.take(who):
            self.answered.append(who)
            await self.end.wait()


async def test_one_caller_has_some_turns_and_the_others_the_rest() -> None:
    asking = Asking(Turns(at_once=3, at_once_of_one=2, most=8, most_of_one=4))
    async with asyncio.TaskGroup() as group:
        for who in ("a", "a", "a", "a", "b", "c"):
            group.create_task(asking.ask(who))
        await eventually(lambda: len(asking.answered) == 3)
        await asyncio.sleep(0)
        assert asking.answered == ["a", "a", "b"]
        with pytest.raises(TooManyRequestsError, match="4 questions of this caller"):
            await asking.ask("a")
        group.create_task(asking.ask("c"))
        group.create_task(asking.ask("c"))
        await asyncio.sleep(0)
        with pytest.raises(TooManyRequestsError, match="answers too many questions"):
            await asking.ask("d")
        asking.end.set()
    assert sorted(asking.answered) == ["a"] * 4 + ["b"] + ["c"] * 3
    await asking.ask("d")  # Every place was given back.


async def test_who_goes_while_it_waits_gives_its_place_back() -> None:
    asking = Asking(Turns(at_once=1, at_once_of_one=1, most=2, most_of_one=2))
    first, second = asyncio.create_task(asking.ask("a")), asyncio.create_task(asking.ask("a"))
    await eventually(lambda: asking.answered == ["a"])
    second.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await second
    third = asyncio.create_task(asking.ask("b"))
    first.cancel()
    await eventually(lambda: asking.answered == ["a", "b"])
    asking.end.set()
    await third


async def test_a_question_has_a_deadline() -> None:
    turns = Turns(deadline_s=0.01)
    with pytest.raises(UnavailableError, match="took more than"):
        async with turns.take("a"):
            await asyncio.Event().wait()
