"""Running the demo as its own process, as a user does, and looking at what it leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[3]


# Alone in a namespace of process IDs: descriptors that root's other processes pass to each other refuse root's
# connections in explicit mode while they are in flight (`socket_shared`), as they must.
APART = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child=KILL")


def start_demo(directory: Path, *options: str, before: Sequence[str] = ()) -> subprocess.Popen[str]:
    """Start ``touchmark demo`` with its temporary files in ``directory``; output in ``out`` and ``err`` beside them.

    Arguments:
        before: a command that runs it; ``APART`` hides the machine's other processes from it, and needs root.
    """
    (directory / "tmp").mkdir()
    environment = {**os.environ, "TMPDIR": str(directory / "tmp"), "PYTHONPATH": str(ROOT)}
    with open(directory / "out", "wb") as out, open(directory / "err", "wb") as err:
        return subprocess.Popen(
            [*before, sys.executable, "-m", "cli", "demo", *options],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=environment,
            cwd=directory,
            text=True,
        )


def find_processes(text: str) -> list[str]:
    """Return the command lines of living processes that contain a text."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if text in command:
                found.append(command)
    return found


def list_namespaces() -> set[str]:
    """Return the names of network namespaces, as ip-netns(8) keeps them."""
    directory = Path("/run/netns")
    return {entry.name for entry in directory.iterdir()} if directory.is_dir() else set()


def assert_nothing_stays(directory: Path) -> None:
    """See that a demo that was started in ``directory`` left neither files nor processes."""
    assert not list((directory / "tmp").iterdir())
    assert not find_processes(str(directory / "tmp"))
