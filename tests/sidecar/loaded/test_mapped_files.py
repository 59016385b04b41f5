"""Which files a process maps executable: read, parsed, and opened as the very files that are mapped."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from sidecar.attest.process import FileKey
from sidecar.loaded import mapped_files
from sidecar.loaded.mapped_files import MappedFile, MappedFiles, Mappings, parse_maps, read_maps, show_path
from tests.sidecar.loaded.loading import make_library, sleeping

HEAD = b"55d0c0000000-55d0c0001000 "


def files_of(text: bytes) -> list[bytes]:
    return [file.path for file in parse_maps(text).files]


def test_executable_mappings_of_files_are_found_each_file_once() -> None:
    text = (
        b"00400000-00401000 r-xp 00001000 fd:01 77                         /usr/bin/a file\n"
        b"00401000-00402000 r--p 00001000 fd:01 78                         /usr/lib/data\n"
        b"00402000-00403000 r-xp 00003000 fd:01 77                         /usr/bin/a file\n"
        b"7f0000000000-7f0000001000 --xp 00000000 fd:01 79                 /usr/lib/only-executed\n"
        b"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0          [vsyscall]\n"
    )
    wanted = MappedFile(area="400000-401000", device=os.makedev(0xFD, 1), inode=77, path=b"/usr/bin/a file")
    found = parse_maps(text)
    assert found.files[0] == wanted
    assert [file.inode for file in found.files] == [77, 79]
    assert not found.anonymous


@pytest.mark.parametrize(
    ("line", "is_anonymous"),
    [
        (b"r-xp 00000000 00:00 0 \n", True),
        (b"r-xp 00000000 00:00 0                          [heap]\n", True),
        (b"rwxp 00000000 00:00 0                          [stack]\n", True),
        (b"r-xp 00000000 00:00 0                          [anon:[vdso]]\n", True),
        (b"r-xs 00000000 00:01 9                          /memfd:jit (deleted)\n", True),
        (b"rwxs 00000000 00:01 9                          /dev/zero (deleted)\n", True),
        (b"rwxp 00000000 fd:01 9                          /usr/lib/rewritten.so\n", True),
        (b"r-xp 00000000 fd:01 9                          /usr/lib/plain.so\n", False),
        (b"r-xp 00000000 00:00 0                          [vdso]\n", False),
        (b"rw-p 00000000 00:00 0                          [heap]\n", False),
    ],
)
def test_executable_memory_that_is_no_unchanged_file_is_anonymous(line: bytes, *, is_anonymous: bool) -> None:
    assert parse_maps(HEAD + line).anonymous is is_anonymous


def test_a_path_with_a_newline_stays_one_mapping() -> None:
    assert files_of(HEAD + b"r-xp 00000000 fd:01 9    /tmp/a\\012b r-xp\n") == [b"/tmp/a\\012b r-xp"]


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        (b"/usr/lib/a.so", "/usr/lib/a.so"),
        (b"/tmp/\x1b[31m", "/tmp/\\x1b[31m"),
        (b"/tmp/\xff", "/tmp/\\xff"),
        ("/tmp/\u202e".encode(), "/tmp/\\u202e"),
        (b"/" + b"x" * 300, "..." + "x" * 253),
    ],
)
def test_paths_are_shown_printable_and_bounded(path: bytes, shown: str) -> None:
    assert show_path(path) == shown


def test_a_file_is_opened_by_its_mapping_and_without_the_right_to_by_its_path(tmp_path: Path) -> None:
    """A newline in the name changes nothing."""
    library = make_library(tmp_path, "a\nb.so")
    with sleeping(library) as child:
        directory = os.open(f"/proc/{child.pid}", os.O_PATH)
        found = by_inode(parse_maps(read_maps(directory)), library)
        key = FileKey.of(library.stat())
        without_area = MappedFile(area="0-0", device=found.device, inode=found.inode, path=found.path)
        with MappedFiles(directory) as opened:
            if os.geteuid() == 0:
                assert opened.read_key(found) == key
            for file in (found, without_area):
                descriptor, opened_key = opened.open(file)
                assert FileKey.of(os.fstat(descriptor)) == opened_key == key
                os.close(descriptor)
        os.close(directory)


def test_another_file_at_the_path_of_a_mapped_one_is_refused(tmp_path: Path) -> None:
    library = make_library(tmp_path)
    with sleeping(library) as child:
        directory = os.open(f"/proc/{child.pid}", os.O_PATH)
        found = by_inode(parse_maps(read_maps(directory)), library)
        library.rename(tmp_path / "elsewhere")
        make_library(tmp_path)
        without_area = MappedFile(area="0-0", device=found.device, inode=found.inode, path=found.path)
        with MappedFiles(directory) as opened, pytest.raises(OSError, match="another file"):
            opened.open(without_area)
        os.close(directory)


_CONTAINER = """
set -e
mount --make-rprivate /
mount -t overlay overlay -o lowerdir=/,upperdir=$1/upper,workdir=$1/work $1/merged
cd $1/merged
mkdir -p former
pivot_root . former
exec /bin/sleep 600
"""


@pytest.mark.needs_root
def test_in_a_container_files_are_found_by_their_paths_on_its_overlay(tmp_path: Path) -> None:
    """A pod's sidecar can't follow mappings: it opens each file in the other container's root."""
    for name in ("upper", "work", "merged"):
        (tmp_path / name).mkdir()
    child = subprocess.Popen(["unshare", "-m", "sh", "-c", _CONTAINER, "sh", str(tmp_path)])
    try:
        deadline = time.monotonic() + 10
        while b"/libc" not in (maps := Path(f"/proc/{child.pid}/maps").read_bytes()) or b"sleep" not in maps:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        directory = os.open(f"/proc/{child.pid}", os.O_PATH)
        with MappedFiles(directory) as opened:
            for found in parse_maps(read_maps(directory)).files:
                without_area = MappedFile(area="0-0", device=found.device, inode=found.inode, path=found.path)
                descriptor, _ = opened.open(without_area)
                assert os.pread(descriptor, 1 << 24, 0) == Path(os.fsdecode(found.path)).read_bytes()
                os.close(descriptor)
        os.close(directory)
    finally:
        child.kill()
        child.wait()


def test_a_deleted_file_is_opened_by_its_mapping_or_not_at_all(tmp_path: Path) -> None:
    library = make_library(tmp_path)
    key = FileKey.of(library.stat())
    with sleeping(library) as child:
        library.unlink()
        directory = os.open(f"/proc/{child.pid}", os.O_PATH)
        found = next(file for file in parse_maps(read_maps(directory)).files if file.inode == key[1])
        without_area = MappedFile(area="0-0", device=found.device, inode=found.inode, path=found.path)
        with MappedFiles(directory) as opened:
            if os.geteuid() == 0:
                descriptor, opened_key = opened.open(found)
                os.close(descriptor)
                assert opened_key[:4] == key[:4]
            with pytest.raises(OSError, match="deleted"):
                opened.open(without_area)
        os.close(directory)


def test_more_mappings_than_are_read_are_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped_files, "MAX_MAPS_BYTES", 100)
    directory = os.open("/proc/self", os.O_PATH)
    with pytest.raises(OSError, match="too many mappings"):
        read_maps(directory)
    os.close(directory)


def test_what_the_kernel_shows_of_this_process_is_understood() -> None:
    directory = os.open("/proc/self", os.O_PATH)
    text = read_maps(directory)
    os.close(directory)
    lines = [line for line in text.splitlines() if re.match(rb"\S+ ..x", line) and b" /" in line]
    assert {line.partition(b" /")[2] for line in lines} == {path[1:] for path in files_of(text)}


def by_inode(mappings: Mappings, path: Path) -> MappedFile:
    return next(file for file in mappings.files if file.inode == path.stat().st_ino)
