"""Approving by file and digest; interpreters only knowingly."""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path

import msgspec
import pytest

from cli.commands.program import describe_weakness
from cli.main import run
from cli.text.exit_codes import ExitCode
from shared.model.identity.loaded_code import ApprovedCode, CodeCheck, LoadedObject
from shared.model.identity.program import Program, parse_program
from shared.model.policy.rules import NamespaceState
from shared.model.wire.admin import ProgramList, ProgramView
from tests.cli.fake_ca import FakeCA
from tests.sidecar.attest.processes import copy_program

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
    program = copy_program("/bin/true", tmp_path / "server")
    assert run(["program", "approve", "shop/web", str(program), f"sha256:{DIGEST}"]) == ExitCode.SUCCESS
    [request] = shop.asked("POST /v1/programs")
    digests = [each["digest"] for each in request["programs"]]
    assert digests == [hashlib.sha256(program.read_bytes()).hexdigest(), DIGEST]
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


def test_a_main_script_of_what_has_no_interpreters_name_is_warned_of(
    shop: FakeCA, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (script := tmp_path / "app.py").write_text("print()\n")
    shutil.copy(sys.executable, tmp_path / "our-app")
    approve = ["program", "approve", "shop/web", "--weak", "--main", str(script)]
    assert run([*approve, sys.executable]) == ExitCode.SUCCESS
    assert "no process of it matches" not in capsys.readouterr().err
    assert run([*approve, str(tmp_path / "our-app")]) == ExitCode.SUCCESS
    assert "our-app isn't named like an interpreter" in capsys.readouterr().err


def test_an_interpreter_without_a_main_script_would_match_nothing(
    shop: FakeCA, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["program", "approve", "shop/web", sys.executable, "--weak"]) == ExitCode.BAD_INPUT
    said = capsys.readouterr().err
    assert "no process of it matches" in said
    assert "--weak --main SCRIPT" in said and "--main none" in said
    assert not shop.asked("POST /v1/programs")
    assert run(["program", "approve", "shop/web", sys.executable, "--weak", "--main", "none"]) == ExitCode.SUCCESS


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


# ---- loaded code -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "check"),
    [
        ([], "enforce"),
        (["--code", "report"], "report"),
        (["--weak"], "report"),
        (["--weak", "--code", "enforce"], "enforce"),
    ],
)
def test_what_a_files_loader_names_is_approved_with_it(
    shop: FakeCA, tmp_path: Path, options: list[str], check: str
) -> None:
    plugin = copy_program("/bin/true", tmp_path / "plugin.so")
    words = ["program", "approve", "shop/web", "/bin/true", "--loads", str(plugin), *options]
    assert run(words) == ExitCode.SUCCESS
    [request] = shop.asked("POST /v1/programs")
    assert request["code"].get("check") == check
    paths = [each["path"] for each in request["code"]["objects"]]
    assert str(plugin) in paths
    assert any(path.endswith("libc.so.6") for path in paths)


def test_a_digest_alone_and_code_off_say_nothing_of_loaded_code(shop: FakeCA) -> None:
    assert run(["program", "approve", "shop/web", DIGEST]) == ExitCode.SUCCESS
    assert run(["program", "approve", "shop/web", "/bin/true", "--code", "off"]) == ExitCode.SUCCESS
    assert all("code" not in request for request in shop.asked("POST /v1/programs"))


def test_a_digest_beside_a_file_makes_other_code_reported_and_not_refused(shop: FakeCA) -> None:
    """What the program of the digest loads isn't known."""
    assert run(["program", "approve", "shop/web", "/bin/true", DIGEST, "--jit"]) == ExitCode.SUCCESS
    [request] = shop.asked("POST /v1/programs")
    assert (request["code"]["check"], request["code"]["jit"]) == ("report", True)


def list_with_code(shop: FakeCA) -> Path:
    """Have the CA list two objects that name one library each, of which one is about to be updated."""
    old = LoadedObject(path="/usr/lib/plugin.so.1.2", digest="1" * 64)
    view = make_view(Program(digest=DIGEST))
    named = msgspec.structs.replace(view, code=ApprovedCode(objects=(old,)))
    other = msgspec.structs.replace(view, name="web-2", code=ApprovedCode(check=CodeCheck.REPORT, jit=True))
    shop.answers["GET /v1/programs"] = ProgramList(programs=(named, other, msgspec.structs.replace(view, name="web-3")))
    return Path("/usr/lib/plugin.so.1.2")


def test_the_list_says_what_follows_from_loaded_code(shop: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    list_with_code(shop)
    assert run(["program", "list", "shop"]) == ExitCode.SUCCESS
    shown = capsys.readouterr().out
    assert "enforce, 1 objects" in shown
    assert "report, 0 objects, jit" in shown
    assert "unlisted" in shown


def test_new_libraries_are_one_change_that_is_asked_about_once(
    shop: FakeCA, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    list_with_code(shop)
    library = copy_program("/bin/true", tmp_path / "other.so")
    words = ["program", "update-code", "shop/web", str(library)]
    assert run(words) == ExitCode.REFUSED  # Not a terminal.
    assert not shop.asked("POST /v1/programs")
    printed = capsys.readouterr()
    assert f"+ {library}" in printed.out
    assert "1 change needs a review" in printed.err
    assert run([*words, "--yes"]) == ExitCode.SUCCESS
    [request] = shop.asked("POST /v1/programs")
    assert (request["name"], len(request["code"]["objects"])) == ("web-1", 2)
    assert run(["program", "update-code", "shop/web"]) == ExitCode.BAD_INPUT
    assert run(["program", "update-code", "shop/api", str(library)]) == ExitCode.NOT_FOUND


def test_an_approval_of_no_main_script_says_what_it_allows(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    """``python3 -m http.server`` has none, so that its approval is all of Python without a script."""
    program = f"sha256:{'ab' * 32}/main:none"
    assert run(["program", "approve", "shop/web", program]) == ExitCode.BAD_INPUT
    refused = capsys.readouterr().err
    assert "every `-m` module, every `-c` text, standard input" in refused
    assert "this main script only" not in refused
    assert describe_weakness([parse_program(program)]).startswith("main:none allows everything")
    assert describe_weakness([parse_program(program.replace("none", "cd" * 32))]).startswith("the main script is")
