"""The version is printed, also as JSON."""

from __future__ import annotations

import msgspec
import pytest

from cli.main import run


def test_version_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["version", "--json"]) == 0
    assert set(msgspec.json.decode(capsys.readouterr().out)) == {"touchmark", "python"}


def test_the_option_prints_them_and_nothing_else_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version", "status"]) == 0
    assert capsys.readouterr().out.startswith("touchmark ")
