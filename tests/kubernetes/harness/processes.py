"""Programs that a test run starts: each in a session of its own, with its log, ended by its process id. Does I/O."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

# These programs talk to addresses of this machine alone: a proxy for the way out must not see it.
_ENVIRONMENT = {"no_proxy": "*", "NO_PROXY": "*"}


class StartError(Exception):
    """A program ended early or wasn't ready in time; the message ends with the last lines of its log."""


class Program:
    """One running program; it gets SIGKILL when the thread that started it dies, so that nothing outlives the run."""

    def __init__(self, command: Sequence[str | Path], *, log: Path, directory: Path) -> None:
        self.name = Path(command[0]).name
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                # setpriv comes with util-linux, as unshare does: the death signal is set without code between fork
                # and exec, which isn't safe in a process with threads.
                ["setpriv", "--pdeathsig", "KILL", "--", *map(str, command)],
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **_ENVIRONMENT},
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def is_running(self) -> bool:
        """Whether it hasn't ended."""
        return self._process.poll() is None

    def stop(self, *, timeout_s: float = 10.0) -> None:
        """Ask it to end (SIGTERM); after ``timeout_s`` make it (SIGKILL). With 0 it isn't asked: a crash."""
        if timeout_s > 0 and self.is_running():
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                pass
        self._process.kill()
        self._process.wait()

    def check(self) -> None:
        """Raises `StartError` when it has ended."""
        if not self.is_running():
            raise StartError(f"{self.name} ended with {self._process.returncode}:\n{self.tail()}")

    def wait_until(self, is_ready: Callable[[], bool], *, timeout_s: float) -> None:
        """Raises `StartError` when it ends before it is ready or isn't ready in time."""
        for _ in _attempts(timeout_s=timeout_s):
            self.check()
            if is_ready():
                return
        raise StartError(f"{self.name} wasn't ready within {timeout_s} s:\n{self.tail()}")

    def tail(self, *, max_lines: int = 30) -> str:
        """The last lines of its log."""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-max_lines:])


def wait_until(is_so: Callable[[], bool], *, timeout_s: float, pause_s: float = 0.2) -> None:
    """Return once ``is_so`` says so; raises `TimeoutError` after ``timeout_s``."""
    for _ in _attempts(timeout_s=timeout_s, pause_s=pause_s):
        if is_so():
            return
    raise TimeoutError(f"not so within {timeout_s} s")


def _attempts(*, timeout_s: float, pause_s: float = 0.1) -> Iterator[int]:
    """Count attempts until the time is over, with a pause between them; at least one."""
    end = time.monotonic() + timeout_s
    count = 0
    while True:
        yield count
        if time.monotonic() >= end:
            return
        count += 1
        time.sleep(pause_s)
