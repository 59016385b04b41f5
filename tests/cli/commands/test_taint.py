"""Distrusting an authority: by its ID, after a question, and for good."""

from __future__ import annotations

import os
import pty
import sys
from collections.abc import Iterator

import msgspec
import pytest
import typer

from cli.main import run
from cli.text.exit_codes import ExitCode
from shared.model.trust.bundle import AuthorityPhase
from shared.model.wire.admin import CAStatus
from tests.cli.fake_ca import FakeCA
from tests.cli.observations import change_ca, make_authority


def status(phase: AuthorityPhase) -> CAStatus:
    old = msgspec.structs.replace(make_authority("issuing"), authority_id="ab12", phase=phase, certificates_alive=3)
    return change_ca(authorities=(make_authority("root"), old))


@pytest.fixture
def leaked(ca: FakeCA) -> FakeCA:
    ca.answers["GET /v1/status"] = status(AuthorityPhase.OLD)
    ca.answers["POST /v1/authorities/ab12/taint"] = status(AuthorityPhase.TAINTED)
    return ca


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Somebody is there to be asked."""
    controller, line = pty.openpty()
    with os.fdopen(line) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield
    os.close(controller)


def test_with_yes_it_is_distrusted_and_named(leaked: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ca", "taint", "ab12", "--yes"]) == ExitCode.SUCCESS
    assert "issuing 1 is tainted; trust bundle 4 says so to every sidecar" in capsys.readouterr().out
    assert run(["ca", "taint", "ab12", "--yes", "--json"]) == ExitCode.SUCCESS
    assert msgspec.json.decode(capsys.readouterr().out)["authorities"][1]["phase"] == "tainted"


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("agrees", [True, False])
def test_it_asks_and_says_what_it_ends(leaked: FakeCA, monkeypatch: pytest.MonkeyPatch, agrees: bool) -> None:
    asked: list[str] = []

    def confirm(text: str, **_: object) -> bool:
        asked.append(text)
        return agrees

    monkeypatch.setattr(typer, "confirm", confirm)
    assert run(["ca", "taint", "ab12"]) == (ExitCode.SUCCESS if agrees else ExitCode.REFUSED)
    assert asked == [
        "Distrust issuing 1 permanently? 3 of its certificates are alive; their connections will be closed."
    ]
    assert bool(leaked.asked("POST /v1/authorities/ab12/taint")) == agrees


def test_without_a_terminal_nothing_is_done(leaked: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ca", "taint", "ab12"]) == ExitCode.REFUSED
    assert "--yes" in capsys.readouterr().err
    assert not leaked.asked("POST /v1/authorities/ab12/taint")


def test_an_authority_that_isnt_there_is_named(leaked: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ca", "taint", "ff", "--yes"]) == ExitCode.NOT_FOUND
    assert "touchmark ca status" in capsys.readouterr().err
