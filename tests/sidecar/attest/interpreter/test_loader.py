"""Dynamic loaders are known by what they are, not by their name."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from sidecar.attest.interpreter.loader import is_loader
from tests.sidecar.attest.processes import PYTHON

SLEEP = os.path.realpath(shutil.which("sleep") or "/bin/sleep")


def mapped(pattern: str) -> str:
    """A file that this process has mapped."""
    return next(
        line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if re.search(pattern, line)
    )


def check(path: str | Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return is_loader(descriptor)
    finally:
        os.close(descriptor)


def test_the_loader_is_one_under_any_name(tmp_path: Path) -> None:
    loader = mapped(r"/ld-(linux|musl)")
    copy = tmp_path / "curl"
    shutil.copy(loader, copy)
    assert check(loader)
    assert check(copy)
    copy.chmod(0o755)
    assert subprocess.run([copy, SLEEP, "0"], check=False).returncode == 0


@pytest.mark.parametrize("path", [PYTHON, SLEEP], ids=["python", "sleep"])
def test_programs_are_none(path: str) -> None:
    assert not check(path)


def test_a_library_that_can_be_executed_is_none_if_it_needs_a_loader_itself() -> None:
    assert not check(mapped(r"/libc\.so\.6|/libc-"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"#!/bin/sh\n",
        b"\x7fELF",
        b"\x7fELF\x02\x01" + b"\xff" * 58,
        b"\x7fELF\x02\x01" + b"\0" * 10 + b"\3" + b"\0" * 47,
    ],
    ids=["empty", "script", "short", "nonsense", "no headers"],
)
def test_what_isnt_a_whole_elf_file_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert not check(tmp_path / "file")
