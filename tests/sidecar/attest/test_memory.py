"""One memory of one process: in use until the next exec, and what is mapped in it."""

from __future__ import annotations

import errno
import gc
import mmap
import os
import sys
from pathlib import Path

import pytest

from sidecar.attest import memory as module
from sidecar.attest.memory import Mapping, Memory
from tests.sidecar.attest.processes import PYTHON, WAIT, hear, running, tell

_EXECUTES_ITSELF = f"os.execv({PYTHON!r}, [{PYTHON!r}, '-c', 'print(1, flush=True); input()'])\n"


def addresses_of(pages: mmap.mmap | None = None) -> list[int]:
    """The start of each of our own mappings."""
    return [int(line.split("-")[0], 16) for line in Path("/proc/self/maps").read_text().splitlines()]


def test_it_is_in_use_until_the_process_executes_something() -> None:
    with running("import os, sys\n" + WAIT + _EXECUTES_ITSELF) as child:
        memory = Memory(child.pid)
        assert memory.is_in_use()
        tell(child)
        assert hear(child) == "1"
        assert not memory.is_in_use()
        assert Memory(child.pid).is_in_use()
    with pytest.raises(ProcessLookupError):
        memory.is_in_use()


def test_a_process_that_has_ended_and_wasnt_waited_for_has_no_memory() -> None:
    status = os.stat(PYTHON)
    with running("import sys\n" + WAIT) as child:
        memory = Memory(child.pid)
        assert memory.has_executable(status.st_dev, status.st_ino)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert not memory.is_in_use()
        with pytest.raises(ProcessLookupError):
            memory.has_executable(status.st_dev, status.st_ino)


def test_the_code_of_a_program_is_its_own_file() -> None:
    with running("import sys\n" + WAIT) as child:
        start = int(Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[23])
        found = Memory(child.pid).find_mapping(start)
        status = os.stat(PYTHON)
        assert found == Mapping(device=status.st_dev, inode=status.st_ino, path=os.fsencode(PYTHON), is_executable=True)


def test_every_mapping_is_found_and_nothing_between_them(tmp_path: Path) -> None:
    """Also where the list takes many pages, and a path has a newline."""
    path = tmp_path / "two\nlines"
    path.write_bytes(b"x" * 4096)
    with path.open("rb+") as file:
        many = [mmap.mmap(file.fileno(), 4096, prot=mmap.PROT_READ) for _ in range(500)]
        memory = Memory(os.getpid())
        by_start = {start: memory.find_mapping(start) for start in addresses_of()}
        still = set(addresses_of())  # Other threads of the tests' process map and unmap, too.
        for each in many:
            each.close()
    assert all(by_start[start] is not None for start in by_start.keys() & still)
    found = list(by_start.values())
    assert sum(each.path == os.fsencode(path) for each in found if each is not None) >= 500
    assert not any(each.is_executable for each in found if each is not None and each.path == os.fsencode(path))
    assert memory.find_mapping(0) is None
    assert memory.find_mapping((1 << 64) - 1) is None


def test_a_list_that_is_too_long_finds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_BYTES", 100)
    last = addresses_of()[-2]
    assert Memory(os.getpid()).find_mapping(last) is None


def test_a_process_that_isnt_there_leaves_no_descriptors() -> None:
    gc.collect()  # What tests before have left isn't closed in between.
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match=os.strerror(errno.ENOENT)):
        Memory(sys.maxsize)
    assert os.listdir("/proc/self/fd") == before
