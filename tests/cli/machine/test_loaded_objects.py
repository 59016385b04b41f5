"""What a loader maps before a program runs: found without running the program, or anything that it names."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
from pathlib import Path

import pytest

from cli.machine.loaded_objects import list_loaded, read_loader, read_objects
from shared.model.errors import InputError

TRUE = Path("/bin/true")


def edit(target: Path, old: bytes, new: bytes) -> Path:
    """Copy a program with some bytes replaced by as many others."""
    content = TRUE.read_bytes()
    assert old in content
    assert len(old) == len(new)
    target.write_bytes(content.replace(old, new))
    target.chmod(0o755)
    return target


def test_the_loader_and_every_library_are_listed_by_digest() -> None:
    found = {os.path.basename(each.path): each for each in list_loaded(TRUE)}
    assert "libc.so.6" in found
    assert any(name.startswith("ld-linux") for name in found)
    for each in found.values():
        assert hashlib.sha256(Path(each.path).read_bytes()).hexdigest() == each.digest


def test_the_environment_of_who_approves_adds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other.so"
    shutil.copy(next(each.path for each in list_loaded(TRUE) if "libc" in each.path), other)
    monkeypatch.setenv("LD_PRELOAD", str(other))
    assert str(other) not in {each.path for each in list_loaded(TRUE)}


def test_a_loader_that_a_program_brings_along_is_never_started(tmp_path: Path) -> None:
    loader = read_loader(TRUE)
    assert loader is not None
    mark, own = tmp_path / "ran", tmp_path / "ld-linux-mine.so.2"
    own.write_text(f"#!/bin/sh\ntouch {mark}\n")
    own.chmod(0o777)
    link = Path("/tmp") / f"l{os.getpid() % 10_000_000}"
    link.symlink_to(own)
    try:
        named = str(link).encode().ljust(len(loader), b"\0")
        program = edit(tmp_path / "program", loader.encode(), named[: len(loader)])
        with pytest.raises(InputError, match="isn't started"):
            list_loaded(program)
    finally:
        link.unlink()
    assert not mark.exists()


def test_where_roots_files_are_nobodys_the_loader_that_started_us_is_taken_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a user namespace without root, as `touchmark demo` of an ordinary user makes one."""
    stat, nobody = os.stat, 65534

    def stat_there(path: str | Path, **options: bool) -> os.stat_result:
        found = stat(path, **options)
        return os.stat_result((*found[:4], nobody, nobody, *found[6:]))

    monkeypatch.setattr("cli.machine.loaded_objects.os.stat", stat_there)
    assert "libc.so.6" in {os.path.basename(each.path) for each in list_loaded(TRUE)}
    loader = read_loader(TRUE)
    assert loader is not None
    copy = Path("/tmp") / f"l{os.getpid() % 10_000_000}" / "ld.so.2"
    copy.parent.mkdir()
    try:
        shutil.copy(loader, copy)
        named = str(copy).encode().ljust(len(loader), b"\0")
        program = edit(tmp_path / "program", loader.encode(), named[: len(loader)])
        with pytest.raises(InputError, match="isn't started"):
            list_loaded(program)
    finally:
        shutil.rmtree(copy.parent)


def test_a_program_that_names_auditing_modules_is_refused(tmp_path: Path) -> None:
    """glibc's loader runs their code even where it only lists."""
    program = edit_dynamic(tmp_path / "program", tag=0x6FFFFEFC)
    with pytest.raises(InputError, match="auditing modules"):
        list_loaded(program)


def test_a_dynamic_section_that_memory_has_elsewhere_is_refused(tmp_path: Path) -> None:
    content = bytearray(TRUE.read_bytes())
    header = find_header(content, 2)
    (place,) = struct.unpack_from("<Q", content, header + 8)
    struct.pack_into("<Q", content, header + 8, place - 16)
    program = tmp_path / "program"
    program.write_bytes(content)
    with pytest.raises(InputError, match="auditing modules"):
        list_loaded(program)


def test_a_library_that_is_missing_is_named(tmp_path: Path) -> None:
    program = edit(tmp_path / "program", b"libc.so.6\0", b"libc.so.9\0")
    with pytest.raises(InputError, match=r"libc\.so\.9"):
        list_loaded(program)


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"#!/bin/sh\n", b"\x7fELF\x02\x01" + b"\xff" * 80])
def test_what_is_no_executable_is_refused_or_has_no_loader(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InputError):
        list_loaded(tmp_path / "file")


def test_a_static_executable_loads_nothing(tmp_path: Path) -> None:
    content = bytearray(TRUE.read_bytes())
    for kind in (3, 2):  # PT_INTERP and PT_DYNAMIC become PT_NULL.
        struct.pack_into("<I", content, find_header(content, kind), 0)
    (tmp_path / "static").write_bytes(content)
    assert list_loaded(tmp_path / "static") == ()


def test_files_are_listed_once_for_each_content(tmp_path: Path) -> None:
    for name in ("b\n.so", "a.so"):
        (tmp_path / name).write_bytes(b"same")
    (tmp_path / "c.so").write_bytes(b"other")
    found = read_objects([tmp_path / "c.so", tmp_path / "b\n.so", tmp_path / "a.so"])
    assert [os.path.basename(each.path) for each in found] == ["a.so", "c.so"]
    with pytest.raises(InputError):
        read_objects([tmp_path / "missing"])


def find_header(content: bytearray, kind: int) -> int:
    (offset,) = struct.unpack_from("<Q", content, 32)
    size, count = struct.unpack_from("<HH", content, 54)
    places = [int(offset) + number * int(size) for number in range(count)]
    return next(place for place in places if struct.unpack_from("<I", content, place)[0] == kind)


def edit_dynamic(target: Path, *, tag: int) -> Path:
    """Copy a program, with the tag of its last entry before the end's replaced."""
    content = bytearray(TRUE.read_bytes())
    header = find_header(content, 2)
    place, length = (struct.unpack_from("<Q", content, header + offset)[0] for offset in (8, 32))
    entries = [place + number for number in range(0, length, 16)]
    used = [entry for entry in entries if struct.unpack_from("<Q", content, entry)[0]]
    struct.pack_into("<Q", content, used[-1], tag)
    target.write_bytes(content)
    return target
