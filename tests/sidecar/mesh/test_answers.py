"""Shared answers: a cancelled waiter takes nobody with it, and questions are bounded."""

from __future__ import annotations

import asyncio

import pytest

from shared.model.errors import UnavailableError
from sidecar.mesh import answers as module
from sidecar.mesh.answers import Answers


async def test_a_cancelled_waiter_takes_nobody_with_it() -> None:
    answers: Answers[str, int] = Answers()
    asked: list[str] = []

    async def ask() -> None:
        asked.append("x")

    first, second = (asyncio.create_task(answers.wait("x", ask, timeout_s=1)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    assert answers.give("x", 5)
    assert await second == 5
    assert asked == ["x"]


async def test_questions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_QUESTIONS", 0)
    with pytest.raises(UnavailableError):
        await Answers[str, int]().wait("x", pytest.fail, timeout_s=1)


async def test_whoever_waits_for_a_question_that_cannot_be_asked_is_told_and_the_next_one_asks_again() -> None:
    answers: Answers[str, int] = Answers()
    begun = 0

    async def ask() -> None:
        nonlocal begun
        begun += 1
        await asyncio.sleep(0)
        raise UnavailableError("ordered by the test")

    waiting = [asyncio.create_task(answers.wait("x", ask, timeout_s=1)) for _ in range(2)]
    assert [type(end) for end in await asyncio.gather(*waiting, return_exceptions=True)] == [UnavailableError] * 2
    assert (begun, answers.keys()) == (1, [])
    with pytest.raises(UnavailableError):
        await answers.wait("x", ask, timeout_s=1)
    assert begun == 2


async def test_an_answer_may_come_while_the_question_waits_to_be_asked() -> None:
    """A new stream asks again for what is open; who waited for the stream asks once more, and that is no harm."""
    answers: Answers[str, int] = Answers()

    async def ask() -> None:
        assert answers.keys() == ["x"]
        answers.give("x", 5)

    assert await answers.wait("x", ask, timeout_s=1) == 5
