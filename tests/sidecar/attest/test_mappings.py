"""A process's executable mappings, read from the kernel and from its text."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sidecar.attest import mappings
from sidecar.attest.mappings import Mapping, MappingsError, parse_executable_mappings, read_mappings

_TEXT = b"""\
55d0c0000000-55d0c0001000 r--p 00000000 fe:01 393 /usr/bin/cat
55d0c0001000-55d0c0002000 r-xp 00001000 fe:01 393 /usr/bin/cat
55d0c1000000-55d0c1021000 rw-p 00000000 00:00 0                          [heap]
7f0000000000-7f0000001000 rwxp 00000000 00:00 0
7f0000002000-7f0000003000 r-xs 00000000 00:2a 7 /opt/a\rb\\012c (deleted)
7ffe00000000-7ffe00002000 r-xp 00000000 00:00 0                          [vdso]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
"""


def test_executable_mappings_are_read_with_their_files_and_whether_they_can_be_written() -> None:
    assert parse_executable_mappings(_TEXT) == [
        Mapping(0x55D0C0001000, 0x55D0C0002000, 0x1000, os.makedev(0xFE, 1), 393, b"/usr/bin/cat", False),
        Mapping(0x7F0000000000, 0x7F0000001000, 0, 0, 0, b"", True),
        Mapping(0x7F0000002000, 0x7F0000003000, 0, os.makedev(0, 0x2A), 7, b"/opt/a\rb\nc (deleted)", False),
        Mapping(0x7FFE00000000, 0x7FFE00002000, 0, 0, 0, b"[vdso]", False),
        Mapping(0xFFFFFFFFFF600000, 0xFFFFFFFFFF601000, 0, 0, 0, b"[vsyscall]", False),
    ]


def test_a_line_of_another_shape_is_refused() -> None:
    with pytest.raises(MappingsError, match="unreadable"):
        parse_executable_mappings(b"x-y r-xp 0 fe:01 1 /bin/x\n")


def test_the_kernels_list_names_the_interpreters_own_file(tmp_path: Path) -> None:
    """Also when the list takes more than one page."""
    with (tmp_path / "file").open("wb+") as file:
        file.truncate(4096)
        many = [mmap.mmap(file.fileno(), 4096, prot=mmap.PROT_READ) for _ in range(500)]
        descriptor = os.open("/proc/self/maps", os.O_RDONLY)
        try:
            text = read_mappings(descriptor)
        finally:
            os.close(descriptor)
            for each in many:
                each.close()
    assert len(text) > 20_000
    program = os.stat("/proc/self/exe")
    found = [each for each in parse_executable_mappings(text) if each.inode == program.st_ino]
    assert {each.path for each in found} == {os.fsencode(os.path.realpath(sys.executable))}
    assert {each.device for each in found} == {program.st_dev}


def test_a_longer_list_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mappings, "_MAX_BYTES", 100)
    descriptor = os.open("/proc/self/maps", os.O_RDONLY)
    try:
        with pytest.raises(MappingsError, match="too many"):
            read_mappings(descriptor)
    finally:
        os.close(descriptor)


def test_after_an_exec_an_open_list_is_empty() -> None:
    with subprocess.Popen(
        ["/bin/sh", "-c", "read x; echo 1; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        descriptor = os.open(f"/proc/{child.pid}/maps", os.O_RDONLY)
        try:
            assert read_mappings(descriptor)
            child.stdin.write(b"\n2\n")
            child.stdin.flush()
            assert child.stdout.readline() == b"1\n"
            assert child.stdout.readline() == b"2\n"
            assert read_mappings(descriptor) == b""
        finally:
            os.close(descriptor)
