"""Starting processes, waiting until they listen, and ending exactly those.

Belongs here: the life of child processes. Doesn't: what they are (``subjects/``). Does I/O.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from bench.errors import BenchError

START_TIMEOUT_S: Final = 90.0
_END_TIMEOUT_S: Final = 10.0
REPOSITORY: Final = Path(__file__).resolve().parent.parent


@dataclass(slots=True, kw_only=True)
class Processes:
    """The processes of one subject or backend; leaving the context ends them, newest first.

    Attributes:
        directory: where their output goes, one ``NAME.log`` each.
        enter: what the command of each begins with.
    """

    directory: Path
    enter: Sequence[str] = ()
    _running: list[tuple[str, subprocess.Popen[bytes]]] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def start(
        self,
        name: str,
        arguments: Sequence[str | Path],
        *,
        environment: Mapping[str, str] | None = None,
        discard_output: bool = False,
    ) -> int:
        """Start a program in its own process group, in the repository's root, and return its PID.

        Raises:
            BenchError: the program can't be started.
        """
        log = subprocess.DEVNULL if discard_output else (self.directory / f"{name}.log").open("wb")
        try:
            process = subprocess.Popen(
                [*self.enter, *(str(argument) for argument in arguments)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=REPOSITORY,
                env={**os.environ, **(environment or {})},
                process_group=0,
            )
        except OSError as error:
            raise BenchError(f"{name}: {arguments[0]} can't be started: {error.strerror}") from error
        finally:
            if not isinstance(log, int):
                log.close()
        self._running.append((name, process))
        return process.pid

    def check(self) -> None:
        """Check that all still run.

        Raises:
            BenchError: one has ended; the message holds the end of its output.
        """
        for name, process in self._running:
            code = process.poll()
            if code is not None:
                raise BenchError(f"{name} ended with status {code}: {self._last_lines(name)}")

    def wait_until_listening(self, address: str, port: int) -> None:
        """Wait until something accepts on ``address:port``, or one of the processes has ended.

        Raises:
            BenchError: nothing listens there within the time limit, or a process ended.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            self.check()
            with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=1):
                return
            time.sleep(0.05)
        names = ", ".join(f"{name}: {self._last_lines(name)}" for name, _ in self._running)
        raise BenchError(f"nothing listens on {address}:{port} after {START_TIMEOUT_S:.0f} s ({names})")

    def end(self) -> None:
        """End all: SIGTERM, then SIGKILL to whatever of their process groups is left."""
        for _, process in reversed(self._running):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for _, process in reversed(self._running):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_TIMEOUT_S)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._running.clear()

    def _last_lines(self, name: str) -> str:
        try:
            text = (self.directory / f"{name}.log").read_text(errors="replace")
        except OSError:
            return "no output"
        return " / ".join(text.splitlines()[-4:])[-600:] or "no output"


def run_tool(arguments: Sequence[str | Path], *, timeout_s: float) -> str:
    """Run a load generator to its end and return its standard output.

    Raises:
        BenchError: it can't be started, fails, or takes longer than ``timeout_s``.
    """
    command = [str(argument) for argument in arguments]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            cwd=REPOSITORY,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{command[0]} took longer than {timeout_s:.0f} s") from error
    except OSError as error:
        raise BenchError(f"{command[0]} can't be started: {error.strerror}", hint="`make bench` installs it") from error
    if done.returncode:
        output = " / ".join((done.stderr or done.stdout).splitlines()[-3:])
        raise BenchError(f"{' '.join(command[:4])} failed with status {done.returncode}: {output}")
    return done.stdout


def own_python() -> str:
    """Return the interpreter that runs the bench; the product and the load generators run in it, too."""
    return sys.executable


def raise_descriptor_limit() -> None:
    """Lift the soft limit of open files to the hard one; children inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextlib.contextmanager
def _reserved(address: str) -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind((address, 0))
        yield probe.getsockname()[1]


def free_ports(count: int, address: str = "127.0.0.1") -> list[int]:
    """Return ``count`` different ports that are free on ``address`` now; another process may still take them."""
    with contextlib.ExitStack() as stack:
        return [stack.enter_context(_reserved(address)) for _ in range(count)]
