"""Which tree of a pod's processes a process belongs to. Each test makes a process namespace, as a pod has one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shared.model.policy.decision import Origin

pytestmark = pytest.mark.needs_root

_ROOT = Path(__file__).parents[3]
_PAUSE = "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN); print('ready', flush=True); signal.pause()"
_TREE = "import os, time\nif not os.fork():\n    time.sleep(600)\nprint('ready', flush=True)\ntime.sleep(600)\n"
_ORPHAN = """
import os, time
if not os.fork():
    if not os.fork():
        print('ready', flush=True)
        time.sleep(600)
    os._exit(0)
os.wait()
time.sleep(600)
"""
_TELL = """
import os
from sidecar.attest.origin import Origins
from sidecar.attest.process import Process
origins = Origins()
for name in sorted(filter(str.isdigit, os.listdir('/proc')), key=int):
    if int(name) != os.getpid():
        print(name, origins.read(Process(int(name))), flush=True)
"""


@contextmanager
def started(*command: str) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen([*command], stdout=subprocess.PIPE, text=True, cwd=_ROOT)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        yield child
    finally:
        # What it has started ends with the pod.
        child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()


@contextmanager
def pod() -> Iterator[str]:
    """A process namespace whose first process is nobody's container; yields its number outside."""
    command = ["unshare", "--pid", "--mount", "--fork", "--mount-proc", "--kill-child=KILL"]
    with started(*command, sys.executable, "-c", _PAUSE) as unshare:
        yield Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children").read_text().split()[0]


def tell(first: str) -> list[tuple[int, Origin]]:
    """Read the origin of every process in the pod, by the pod's own numbers."""
    enter = ["nsenter", "--target", first, "--pid", "--mount", f"--wd={_ROOT}"]
    done = subprocess.run([*enter, sys.executable, "-c", _TELL], capture_output=True, text=True, check=True)
    return [(int(line.split()[0]), Origin(line.split()[1])) for line in done.stdout.splitlines()]


def test_a_containers_processes_an_exec_session_and_an_orphan_are_told_apart() -> None:
    with pod() as pause:
        enter = ["nsenter", "--target", pause, "--pid", "--mount"]
        # A container: entered from outside, with mounts of its own. Two processes.
        with started(*enter, "unshare", "--mount", sys.executable, "-c", _TREE) as container:
            assert container.stdout is not None
            main = Path(f"/proc/{container.pid}/task/{container.pid}/children").read_text().split()[0]
            # kubectl exec: entered from outside as well, with the container's mounts. Two processes again; and another
            # session, one of whose processes has lost its parent: it belongs to no tree any more.
            inside = ["nsenter", "--target", main, "--pid", "--mount"]
            with started(*inside, sys.executable, "-c", _TREE), started(*inside, sys.executable, "-c", _ORPHAN):
                found = tell(pause)
    assert [origin for pid, origin in found if pid != 1] == [
        Origin.CONTAINER,
        Origin.CONTAINER,
        Origin.EXEC,
        Origin.EXEC,
        Origin.EXEC,
        Origin.UNKNOWN,
    ]
