"""Doctor: a line each, and 3 when something needed is missing."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from cli.exit_codes import ExitCode
from cli.main import run


def test_a_missing_ca_is_a_cross_with_a_hint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--admin-socket", str(tmp_path / "none.sock")]) == ExitCode.CHECK_FAILED
    lines = capsys.readouterr().out.splitlines()
    cross = next(index for index, line in enumerate(lines) if line.startswith("✗ CA"))
    assert "touchmark ca serve" in lines[cross + 1]
    assert any(line.startswith("✓ Python") for line in lines)


def test_json_holds_the_same_findings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["doctor", "--json", "--admin-socket", str(tmp_path / "none.sock")])
    answer = msgspec.json.decode(capsys.readouterr().out)
    assert answer["is_well"] is False
    assert {"subject": "CA", "is_well": False}.items() <= answer["findings"][-1].items()
