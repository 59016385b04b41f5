"""Shared answers: a cancelled waiter takes nobody with it, and questions are bounded."""

from __future__ import annotations

import asyncio

import pytest

from shared.model.errors import UnavailableError
from sidecar import answers as module
from sidecar.answers import Answers


async def test_a_cancelled_waiter_takes_nobody_with_it() -> None:
    answers: Answers[str, int] = Answers()
    asked: list[str] = []
    first, second = (asyncio.create_task(answers.wait("x", lambda: asked.append("x"), timeout_s=1)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    assert answers.give("x", 5)
    assert await second == 5
    assert asked == ["x"]


async def test_questions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_QUESTIONS", 0)
    with pytest.raises(UnavailableError):
        await Answers[str, int]().wait("x", lambda: None, timeout_s=1)
