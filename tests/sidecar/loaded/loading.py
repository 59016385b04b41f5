"""Processes that load code: a library that nobody else has, named by ``LD_PRELOAD`` or loaded while they run."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sidecar.attest.facts import Execution
from sidecar.attest.process import Process
from tests.sidecar.attest.processes import PYTHON, copy_program

_SLEEP = "/bin/sleep"


def make_library(directory: Path, name: str = "intruder.so") -> Path:
    """Make a library that loads and does nothing, with a content of its own."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    libc = next(line.split()[-1] for line in maps if "/libm.so" in line or "/libm-" in line or "/libz.so" in line)
    return copy_program(libc, directory / name)


def execution_of(pid: int) -> Execution:
    """Look at what a process executes, as attestation does."""
    process = Process(pid)
    try:
        device, file, *_ = process.read_executable()
        image = process.image
        return Execution(pid, image.start_time, device, file, image.code, image.stack, image.arguments, process.memory)
    finally:
        process.close()


@contextmanager
def sleeping(preload: Path | None = None, program: str = _SLEEP) -> Iterator[subprocess.Popen[bytes]]:
    """Run a small C program, and wait until its loader has done its work."""
    environment = {} if preload is None else {"LD_PRELOAD": str(preload)}
    child = subprocess.Popen([program, "600"], env=environment)
    try:
        wanted = os.path.basename(preload or "libc").split("\n")[0]
        deadline = time.monotonic() + 10
        while wanted not in Path(f"/proc/{child.pid}/maps").read_text() or _runs_loader(child.pid):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        yield child
    finally:
        child.kill()
        child.wait()


def _runs_loader(pid: int) -> bool:
    """Tell whether it has yet to reach its own code: it sleeps once that runs."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "S"


PYTHON_LOADS = (
    "import ctypes,sys\nprint('ready',flush=True)\n"
    "for line in sys.stdin:\n ctypes.CDLL(line.strip()); print('loaded',flush=True)\n"
)
PYTHON_MAPS_MEMORY = (
    "import mmap,sys\nm=mmap.mmap(-1,4096,prot=mmap.PROT_READ|mmap.PROT_EXEC)\nprint('ready',flush=True)\n"
    "sys.stdin.readline()\n"
)

__all__ = [
    "PYTHON",
    "PYTHON_LOADS",
    "PYTHON_MAPS_MEMORY",
    "execution_of",
    "make_library",
    "sleeping",
]
