"""The verb hands its choices on, and what was observed decides its end."""

from __future__ import annotations

from typing import Any

import pytest

from cli.demo import run as running
from cli.main import run
from cli.text.exit_codes import ExitCode
from cli.text.json_result import JsonResult


def test_choices_are_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def run_demo(**choices: Any) -> int:
        asked.append(choices)
        return ExitCode.CHECK_FAILED

    monkeypatch.setattr(running, "run_demo", run_demo)
    assert run(["demo", "--capture", "listeners", "--server", "python", "--keep", "--json"]) == ExitCode.CHECK_FAILED
    [choices] = asked
    assert isinstance(choices.pop("json_result"), JsonResult)
    assert choices == {"capture": "listeners", "server": "python", "keep": True}


def test_an_unknown_capture_is_bad_input() -> None:
    assert run(["demo", "--capture", "magic"]) == ExitCode.BAD_INPUT
