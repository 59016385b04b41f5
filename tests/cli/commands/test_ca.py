"""Join tokens: checked here, written once to a file that only its owner can read."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from cli.machine import component
from cli.main import run
from cli.text.exit_codes import ExitCode
from shared.model.wire.admin import JoinTokenCreated
from tests.cli.fake_ca import FakeCA

CREATED = JoinTokenCreated(
    token="touchmark1.secret", token_id="t1", workload="shop/web", addresses=("198.18.0.2",), ca="c:1", expires=9.0
)


def test_the_token_goes_to_a_new_file_and_not_to_the_screen(
    ca: FakeCA, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ca.answers["POST /v1/join-tokens"] = CREATED
    file = tmp_path / "token"
    command = [
        "ca",
        "join-token",
        "shop/web",
        "--address",
        "198.18.0.2",
        "--label",
        "team=a",
        "-o",
        str(file),
        "--json",
    ]
    assert run([*command, "--json"]) == ExitCode.SUCCESS
    assert file.read_text() == "touchmark1.secret\n"
    assert file.stat().st_mode & 0o777 == 0o600
    assert "secret" not in capsys.readouterr().out
    [request] = ca.asked("POST /v1/join-tokens")
    assert (request["labels"], request["addresses"], request["ttl_s"]) == ({"team": "a"}, ["198.18.0.2"], 3600.0)
    assert run(command) == ExitCode.BAD_INPUT


def test_without_a_file_the_token_alone_is_on_standard_output(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    ca.answers["POST /v1/join-tokens"] = CREATED
    assert run(["ca", "join-token", "shop/web"]) == ExitCode.SUCCESS
    assert capsys.readouterr().out == "touchmark1.secret\n"


def test_json_of_the_token(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    ca.answers["POST /v1/join-tokens"] = CREATED
    assert run(["ca", "join-token", "shop/web", "--json"]) == ExitCode.SUCCESS
    assert msgspec.json.decode(capsys.readouterr().out)["token"] == "touchmark1.secret"


def test_serve_hands_further_options_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(component, "become_component", lambda name, arguments: became.append((name, list(arguments))))
    command = ["ca", "serve", "--data-dir", str(tmp_path), "--name", "ca.example", "--max-streams", "7"]
    assert run(command) == ExitCode.SUCCESS
    assert became == [("ca", ["--data-dir", str(tmp_path), "--name", "ca.example", "--max-streams", "7"])]
