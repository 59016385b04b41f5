"""``sidecar run`` hands its options on, and checks files first."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.machine import component
from cli.main import run
from cli.text.exit_codes import ExitCode


def test_options_are_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(component, "become_component", lambda name, arguments: became.append((name, list(arguments))))
    file = tmp_path / "sidecar.yaml"
    file.touch()
    assert run(["sidecar", "run", "-c", str(file), "--instance", "web-1"]) == ExitCode.SUCCESS
    assert became == [("sidecar", ["--config", str(file), "--instance", "web-1"])]
