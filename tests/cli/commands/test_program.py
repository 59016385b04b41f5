"""Approving by file and digest; interpreters only knowingly."""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path

import pytest

from cli.main import run
from cli.text.exit_codes import ExitCode
from shared.model.identity.program import Program
from shared.model.policy.rules import NamespaceState
from shared.model.wire.admin import ProgramList, ProgramView
from tests.cli.fake_ca import FakeCA

DIGEST = "ab" * 32


def make_view(*programs: Program) -> ProgramView:
    return ProgramView(
        namespace="shop",
        name="web-1",
        service_account="web",
        programs=programs,
        weak=False,
        approved_by="somebody",
        approved=1.0,
    )


@pytest.fixture
def shop(ca: FakeCA) -> FakeCA:
    ca.answers["POST /v1/programs"] = make_view(Program(digest=DIGEST))
    ca.answers["GET /v1/programs"] = ProgramList(programs=(make_view(Program(digest=DIGEST)),))
    ca.answers["DELETE /v1/programs/shop/web-1"] = NamespaceState(namespace="shop", version=2)
    return ca


def test_a_file_is_approved_by_its_hash_and_a_digest_as_it_is(shop: FakeCA, tmp_path: Path) -> None:
    program = tmp_path / "server"
    program.write_bytes(b"\x7fELF a program")
    assert run(["program", "approve", "shop/web", str(program), f"sha256:{DIGEST}"]) == ExitCode.SUCCESS
    [request] = shop.asked("POST /v1/programs")
    digests = [each["digest"] for each in request["programs"]]
    assert digests == [hashlib.sha256(b"\x7fELF a program").hexdigest(), DIGEST]
    assert (request["namespace"], request["service_account"]) == ("shop", "web")


def test_an_interpreter_is_refused_without_weak_even_under_another_name(
    shop: FakeCA, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    python = Path(sys.executable).resolve()
    copy = tmp_path / "harmless"
    shutil.copy(python, copy)
    assert run(["program", "approve", "shop/web", str(python)]) == ExitCode.BAD_INPUT
    assert "--weak" in capsys.readouterr().err
    assert run(["program", "approve", "shop/web", str(copy)]) == ExitCode.BAD_INPUT
    assert not shop.asked("POST /v1/programs")


def test_weak_with_a_main_script_narrows_the_interpreter_and_warns(
    shop: FakeCA, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "app.py"
    script.write_text("print()\n")
    assert run(["program", "approve", "shop/web", sys.executable, "--weak", "--main", str(script)]) == ExitCode.SUCCESS
    [request] = shop.asked("POST /v1/programs")
    assert request["weak"] is True
    assert request["programs"][0]["main"] == hashlib.sha256(b"print()\n").hexdigest()
    assert "warning" in capsys.readouterr().err


def test_a_script_is_not_a_program_and_the_hint_names_its_interpreter(
    shop: FakeCA, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "run"
    script.write_text("#!/bin/sh\n")
    assert run(["program", "approve", "shop/web", str(script)]) == ExitCode.BAD_INPUT
    hint = capsys.readouterr().err
    assert "program approve WORKLOAD /bin/sh --weak" in hint
    assert f"--main {script}" in hint


def test_remove_by_digest_removes_the_object_with_its_last_program(shop: FakeCA) -> None:
    assert run(["program", "remove", "shop/web", DIGEST]) == ExitCode.SUCCESS
    assert [key for key, _, _ in shop.requests if key.startswith("DELETE")] == ["DELETE /v1/programs/shop/web-1"]


def test_remove_of_what_isn_t_approved_is_not_found(shop: FakeCA) -> None:
    assert run(["program", "remove", "shop/web", "cd" * 32]) == ExitCode.NOT_FOUND
