"""Shared answers: a cancelled waiter takes nobody with it, and questions are bounded."""

from __future__ import annotations

import asyncio

import pytest

from shared.model.errors import UnavailableError
from sidecar.mesh.answers import MAX_QUESTIONS, Answers
from sidecar.mesh.directory_cache import MAX_STRANGERS_QUESTIONS


async def test_a_cancelled_waiter_takes_nobody_with_it() -> None:
    answers: Answers[str, int] = Answers()
    asked: list[str] = []

    async def ask() -> None:
        asked.append("x")

    first, second = (asyncio.create_task(answers.wait("x", ask, timeout_s=30)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    assert answers.give("x", 5)
    assert await second == 5
    assert asked == ["x"]


async def test_questions_are_bounded_and_strangers_leave_room_for_others() -> None:
    answers: Answers[str, int] = Answers()

    async def ask() -> None:
        """It stays open."""

    first = asyncio.create_task(answers.wait("x", ask, timeout_s=30, most=1))
    await asyncio.sleep(0)
    with pytest.raises(UnavailableError):
        await answers.wait("y", pytest.fail, timeout_s=30, most=1)
    second = asyncio.create_task(answers.wait("y", ask, timeout_s=30))
    await asyncio.sleep(0)
    assert answers.give("x", 1) and answers.give("y", 2)
    assert (await first, await second) == (1, 2)
    assert MAX_STRANGERS_QUESTIONS < MAX_QUESTIONS


async def test_whoever_waits_for_a_question_that_cannot_be_asked_is_told_and_the_next_one_asks_again() -> None:
    answers: Answers[str, int] = Answers()
    begun = 0

    async def ask() -> None:
        nonlocal begun
        begun += 1
        await asyncio.sleep(0)
        raise UnavailableError("ordered by the test")

    waiting = [asyncio.create_task(answers.wait("x", ask, timeout_s=30)) for _ in range(2)]
    assert [type(end) for end in await asyncio.gather(*waiting, return_exceptions=True)] == [UnavailableError] * 2
    assert (begun, answers.keys()) == (1, [])
    with pytest.raises(UnavailableError):
        await answers.wait("x", ask, timeout_s=30)
    assert begun == 2


async def test_an_answer_may_come_while_the_question_waits_to_be_asked() -> None:
    """A new stream asks again for what is open; who waited for the stream asks once more, and that is no harm."""
    answers: Answers[str, int] = Answers()

    async def ask() -> None:
        assert answers.keys() == ["x"]
        answers.give("x", 5)

    assert await answers.wait("x", ask, timeout_s=30) == 5
