"""What a file is: its digest and whether it runs what others write."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from cli.machine.executable import digest_file, find_weakness, read_executable
from shared.model.errors import InputError


def test_links_are_followed_and_the_content_is_hashed(tmp_path: Path) -> None:
    (tmp_path / "program").write_bytes(b"\x7fELF content")
    (tmp_path / "link").symlink_to(tmp_path / "program")
    assert read_executable(tmp_path / "link").path == str(tmp_path / "program")
    assert digest_file(tmp_path / "link") == hashlib.sha256(b"\x7fELF content").hexdigest()


@pytest.mark.parametrize("name", ["python3.11", "bash", "dash", "busybox", "node", "perl5.36.0", "ld-linux.so.2"])
def test_interpreters_are_known_by_name(name: str) -> None:
    assert find_weakness(f"/usr/bin/{name}")


@pytest.mark.parametrize("name", ["curl", "nginx", "postgres", "sshd"])
def test_other_programs_are_not_weak(name: str) -> None:
    assert not find_weakness(f"/usr/bin/{name}")


def test_a_renamed_interpreter_is_known_by_its_content() -> None:
    assert read_executable(Path(sys.executable)).weakness


def test_a_directory_is_no_program(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        read_executable(tmp_path)


@pytest.mark.parametrize("content", [b"", b"apiVersion: touchmark.dev/v1alpha1"])
def test_what_is_no_executable_is_no_program(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InputError, match="not an ELF executable"):
        read_executable(tmp_path / "file")
