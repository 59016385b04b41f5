"""Live connections: who didn't answer is named."""

from __future__ import annotations

import pytest

from cli.main import run
from cli.text.exit_codes import ExitCode
from shared.model.wire.admin import ConnectionList
from tests.cli.fake_ca import FakeCA


def test_silent_sidecars_are_named(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    ca.answers["GET /v1/connections"] = ConnectionList(connections=(), silent=("web-7",))
    assert run(["connections"]) == ExitCode.SUCCESS
    printed = capsys.readouterr()
    assert printed.out == "no live connections\n"
    assert "web-7" in printed.err
