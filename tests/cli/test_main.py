"""Errors end as a line with a stable code, a hint and an exit code; never as a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.main import get_command

from cli.main import app, run
from cli.text.exit_codes import EXIT_CODES, ExitCode


def test_without_a_ca_the_error_names_the_socket_and_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["ca", "status", "--admin-socket", str(tmp_path / "none.sock")]) == ExitCode.UNAVAILABLE
    errors = capsys.readouterr().err
    assert errors.startswith("error[unavailable]: ")
    assert "none.sock" in errors
    assert "touchmark ca serve" in errors


def test_with_json_an_error_is_one_object_on_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["identities", "--json", "--admin-socket", str(tmp_path / "none.sock")]) == ExitCode.UNAVAILABLE
    printed = capsys.readouterr()
    assert printed.out == ""
    error = msgspec.json.decode(printed.err)
    assert set(error) == {"code", "message", "hint"}
    assert error["code"] == "unavailable"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["why", "shop/web"], "No such command 'why'. Did you mean 'explain'?"),
        (["program", "add"], "No such command 'add'. Did you mean 'program approve' or 'trust add'?"),
        (["expalin"], "No such command 'expalin'. Did you mean 'explain'?"),
        (["nonsense"], "No such command 'nonsense'.\n"),
    ],
)
def test_an_unknown_command_names_what_may_be_meant(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == ExitCode.BAD_INPUT
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["mode"],
        ["mode", "shop", "loose"],
        ["mode", "Shop"],
        ["decisions", "--limit", "0"],
        ["decisions", "--reason", "because"],
        ["decisions", "--since", "yesterday"],
        ["ca", "join-token", "web"],
        ["ca", "join-token", "shop/web", "--address", "example.test"],
        ["program", "approve", "shop/web"],
        ["program", "approve", "shop/web", "/nowhere/at/all"],
        ["policy", "apply", "-f", "/nowhere/at/all.yaml"],
        ["policy", "delete"],
        ["sidecar", "run", "--config", "/nowhere/at/all.yaml"],
    ],
)
def test_a_mistake_of_the_user_is_exit_code_2_and_one_error(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == ExitCode.BAD_INPUT
    errors = capsys.readouterr().err
    assert errors.startswith("error[")
    assert "Traceback" not in errors


def test_a_mistake_names_the_help_of_its_own_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["mode", "shop", "lax"]) == ExitCode.BAD_INPUT
    said = capsys.readouterr().err
    assert "`touchmark mode --help` shows the options" in said
    assert "Value error" not in said, "a word of the library's, which tells nobody anything"
    assert run(["policy", "draft"]) == ExitCode.BAD_INPUT
    assert "`touchmark policy draft --help`" in capsys.readouterr().err
    assert run(["nonsense"]) == ExitCode.BAD_INPUT
    assert "`touchmark --help`" in capsys.readouterr().err


def _list_commands(command: Any, path: tuple[str, ...] = ("touchmark",)) -> Iterator[tuple[str, str]]:
    for name, each in getattr(command, "commands", {}).items():
        yield from _list_commands(each, (*path, name))
    if not getattr(command, "commands", None):
        yield " ".join(path), command.help


def test_each_command_s_help_has_an_example_of_it() -> None:
    helps = dict(_list_commands(get_command(app)))
    assert len(helps) > 50
    lacking = [name for name, text in helps.items() if "Example" not in text or name not in text.split("Example")[1]]
    assert lacking == ["touchmark ca join-token create"], "of which `create` may be left out"


def test_every_exit_code_is_documented_in_the_help() -> None:
    assert set(EXIT_CODES) == set(ExitCode)
    shown = subprocess.run([sys.executable, "-m", "cli", "--help"], capture_output=True, check=True, timeout=120)
    assert b"130" in shown.stdout


def test_help_loads_neither_the_client_nor_cryptography() -> None:
    code = (
        "import sys; from cli.main import run; run(['version', '--json']);"
        "print([name for name in ('aiohttp', 'cryptography', 'kubernetes', 'yaml', 'psutil') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=120, text=True)
    assert ran.stdout.splitlines()[-1] == "[]"


def test_completion_knows_the_verbs() -> None:
    environment = {
        **os.environ,
        "_TOUCHMARK_COMPLETE": "complete_bash",
        "COMP_WORDS": "touchmark de",
        "COMP_CWORD": "1",
    }
    ran = subprocess.run(
        [sys.executable, "-m", "cli"], capture_output=True, env=environment, check=False, timeout=120, text=True
    )
    assert set(ran.stdout.split()) == {"decisions", "demo"}


def test_completion_knows_the_kubeconfig_s_contexts(tmp_path: Path) -> None:
    (tmp_path / "kubeconfig").write_text("contexts: [{name: dev-a}, {name: dev-b}, {name: prod}]")
    environment = {
        **os.environ,
        "KUBECONFIG": str(tmp_path / "kubeconfig"),
        "_TOUCHMARK_COMPLETE": "complete_bash",
        "COMP_WORDS": "touchmark status --context de",
        "COMP_CWORD": "3",
    }
    ran = subprocess.run(
        [sys.executable, "-m", "cli"], capture_output=True, env=environment, check=False, timeout=120, text=True
    )
    assert set(ran.stdout.split()) == {"dev-a", "dev-b"}
