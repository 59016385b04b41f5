"""How the loop is compiled, and that nothing breaks where it can't be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sidecar.native import build as module
from sidecar.native.build import NAME, BuildError, build

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
# The sanitizers' libraries come before everything else, Python itself isn't built with them: it would seem to leak.
_SANITIZED = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-DOF_THREAD=")


@needs_compiler
def test_what_was_built_from_this_source_isnt_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = build(tmp_path)
    before = made.stat().st_mtime_ns
    monkeypatch.setenv("CC", "/nonexistent/cc")
    assert build(tmp_path) == made
    assert made.stat().st_mtime_ns == before
    with pytest.raises(BuildError, match="CC=/nonexistent/cc isn't there"):
        build(tmp_path, flags=("-O1",))


@needs_compiler
def test_two_builds_are_equal_and_hold_no_path_of_this_machine(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    first, second = (build(folder).read_bytes() for folder in folders)
    assert first == second
    assert str(Path(module.__file__).parent).encode() not in first


def test_a_missing_compiler_is_named_and_is_no_failure_of_the_set_up(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sidecar.native.build", str(tmp_path)],
        env={**os.environ, "PATH": "/nonexistent", "CC": ""}, capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("the native engine isn't built: ")
    assert "apt install" in done.stderr
    assert not (tmp_path / NAME).exists()


@needs_compiler
def test_a_fault_in_the_source_is_the_compilers_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "loop.c"
    source.write_text("int main(void) { return nonsense; }\n")
    monkeypatch.setattr(module, "SOURCE", source)
    with pytest.raises(BuildError, match="nonsense"):
        build(tmp_path)
    assert not (tmp_path / NAME).exists()


@needs_compiler
def test_random_and_malformed_bytes_meet_no_undefined_behaviour(tmp_path: Path) -> None:
    """Under the address and the undefined behaviour sanitizer; a finding ends the process."""
    build(tmp_path, flags=_SANITIZED)
    libraries = [_library("libasan.so"), _library("libubsan.so")]
    done = subprocess.run(
        [sys.executable, "-m", "tests.sidecar.native.malformed", str(tmp_path)],
        env={**os.environ, "LD_PRELOAD": " ".join(libraries), "ASAN_OPTIONS": "detect_leaks=0"},
        capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]


def _library(name: str) -> str:
    found = subprocess.run(["cc", f"-print-file-name={name}"], capture_output=True, text=True, check=True, timeout=180)
    assert "/" in found.stdout, f"the compiler brings no {name}"
    return found.stdout.strip()
