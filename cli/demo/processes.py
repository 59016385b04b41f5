"""The demo's processes, all of which end with it. Does I/O.

Children get sessions of their own: Ctrl-C reaches the demo alone, which then ends them in order.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cli
from cli.machine.machine import SYSTEM_PATH
from shared.model.errors import MachineError, UnavailableError

_END_TIMEOUT_S: Final = 5.0
_POLL_S: Final = 0.05
_SHOWN_LOG_LINES: Final = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a command ended."""

    code: int
    output: str
    errors: str


class Processes:
    """Children that run on, and commands that end; all with one environment.

    Arguments:
        directory: where the children's output goes, a file each.
        environment: what children find beside this process's own environment.
    """

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self._directory = directory
        source_root = str(Path(cli.__file__).resolve().parent.parent)
        path = os.pathsep.join(part for part in (source_root, os.environ.get("PYTHONPATH", "")) if part)
        self._environment = {
            **os.environ,
            # An ordinary user's PATH lacks nft(8) and ip(8), which a sidecar in a user namespace runs.
            "PATH": os.environ.get("PATH", "") + SYSTEM_PATH,
            "PYTHONPATH": path,
            "NO_COLOR": "1",
            **environment,
            "TOUCHMARK_KUBERNETES": "",  # The demo has a CA of its own, whatever its reader works with otherwise.
        }
        self._children: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._commands: set[subprocess.Popen[bytes]] = set()
        # Ctrl-C is raised in the main thread alone: a child that another one starts is never started and forgotten.
        self._starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="starter")
        self._starter.submit(int).result()  # Starts its thread before there is any child.

    def start(self, name: str, command: Sequence[str]) -> None:
        """Start a child that runs until ``end``; its output goes to ``NAME.log``.

        Raises:
            MachineError: the program can't be run.
        """
        try:
            self._starter.submit(self._start, name, command).result()
        except OSError as error:
            raise MachineError(f"can't run {command[0]}: {error.strerror}", hint="touchmark doctor") from error

    def _start(self, name: str, command: Sequence[str]) -> None:
        with open(self.log_of(name), "ab") as log:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )
        self._children.append((name, child))

    def log_of(self, name: str) -> Path:
        """Return the file that holds a child's output."""
        return self._directory / f"{name}.log"

    def check(self) -> None:
        """See that every child still runs.

        Raises:
            UnavailableError: one has ended; its last lines are in the message.
        """
        for name, child in self._children:
            code = child.poll()
            if code is not None:
                lines = self.log_of(name).read_text(errors="replace").splitlines()[-_SHOWN_LOG_LINES:]
                raise UnavailableError(
                    f"{name} exited with code {code}:\n" + "\n".join(f"    {line}" for line in lines),
                    hint="`touchmark doctor` checks this machine",
                )

    def run(self, command: Sequence[str], *, timeout_s: float, is_merged: bool = False) -> Outcome:
        """Run a command to its end; a deadline that passes is code 124, as of timeout(1).

        Arguments:
            is_merged: errors go into the output, in the order in which a terminal shows them.
        """
        try:
            child = self._starter.submit(self._start_command, command, is_merged=is_merged).result()
        except OSError as error:
            raise MachineError(f"can't run {command[0]}: {error.strerror}", hint="touchmark doctor") from error
        with child:
            try:
                output, errors = child.communicate(timeout=timeout_s)
            except subprocess.TimeoutExpired:
                return Outcome(code=124, output="", errors=f"timed out after {timeout_s:.0f} s")
            finally:
                child.kill()  # Whatever interrupts the waiting; one that has ended is left alone.
                child.wait()
                self._commands.discard(child)
        return Outcome(
            code=child.returncode,
            output=output.decode(errors="replace"),
            errors=(errors or b"").decode(errors="replace"),
        )

    def _start_command(self, command: Sequence[str], *, is_merged: bool) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if is_merged else subprocess.PIPE,
            env=self._environment,
            start_new_session=True,
        )
        self._commands.add(child)
        return child

    def end(self) -> None:
        """End all children, the last one first; those that don't exit are killed. Nothing starts afterwards."""
        self._starter.shutdown(wait=True)
        # Commands whose waiting was interrupted before it began.
        for command in list(self._commands):
            with command:
                command.kill()
        self._commands.clear()
        for _, child in reversed(self._children):
            with contextlib.suppress(ProcessLookupError):
                child.terminate()
        deadline = time.monotonic() + _END_TIMEOUT_S
        for _, child in reversed(self._children):
            try:
                child.wait(timeout=max(0.05, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self._children.clear()


def touchmark_command(arguments: Sequence[str]) -> list[str]:
    """Return the command that runs ``touchmark ARGUMENTS`` with this interpreter."""
    return [sys.executable, "-m", "cli", *arguments]
