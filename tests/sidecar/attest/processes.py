"""Real processes for the tests of attestation: Python children that say on standard output how far they are."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sidecar.attest.holding import newest

PYTHON = os.path.realpath(sys.executable)

CONNECT = "import os,socket,sys,time\nc=socket.create_connection(('127.0.0.1',int(sys.argv[1])))\n"
WAIT = "import sys\nprint('ready',flush=True)\nsys.stdin.readline()\n"
NOBODY = 65_534
# What starts as root goes on without rights; ``PR_SET_DUMPABLE`` says whether others of its user may inspect it.
_BE_NOBODY = "import ctypes,os\nos.setgroups([]);os.setresgid(*[65534]*3);os.setresuid(*[65534]*3)\n"
AS_NOBODY = _BE_NOBODY + "assert ctypes.CDLL(None).prctl(4,1)==0\n"
AS_HIDDEN_NOBODY = _BE_NOBODY + "assert ctypes.CDLL(None).prctl(4,0)==0\n"


def look_among_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the newest processes be all there are, whatever else this machine starts, and however busy it is."""
    monkeypatch.setattr(newest, "_MAX_PROCESSES", 10_000)
    monkeypatch.setattr(newest, "_MAX_CPU_S", 600.0)


def digest_of(path: str | Path) -> str:
    """Hash a file the plain way."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def copy_program(original: str, target: Path, extra: bytes = b"altered") -> Path:
    """Copy an executable and append bytes, which changes its digest and nothing else."""
    shutil.copy(original, target)
    with target.open("ab") as file:
        file.write(extra)
    return target


@contextmanager
def running(
    code: str,
    *arguments: str,
    program: str = PYTHON,
    pass_fds: tuple[int, ...] = (),
    preexec_fn: Callable[[], object] | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """Run Python code in a child until it says ``ready``; end it afterwards."""
    command = [program, "-c", code, *arguments]
    environment = {**os.environ, "PYTHONHOME": sys.base_prefix}
    child = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=pass_fds,
        env=environment,
        preexec_fn=preexec_fn,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        yield child
    finally:
        child.kill()
        child.communicate()


def tell(child: subprocess.Popen[str]) -> None:
    """Let the child go on."""
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()


def hear(child: subprocess.Popen[str]) -> str:
    """Read the child's next line."""
    assert child.stdout is not None
    return child.stdout.readline().strip()


@contextmanager
def listening() -> Iterator[socket.socket]:
    """Listen on a loopback port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        yield server
