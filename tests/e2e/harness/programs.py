"""Real programs: copies of an executable, each with a digest of its own, run in pods and told what to do."""

from __future__ import annotations

import hashlib
import json
import os
import select
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.model.identity.program import Program
from tests.e2e.harness import actor
from tests.e2e.harness.pods import Pod, end

_ANSWER_S = 270.0
_ORIGINAL = os.path.realpath(sys.executable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Executable:
    """An executable file."""

    path: Path

    @property
    def digest(self) -> str:
        """The SHA-256 of what the file holds now."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @property
    def program(self) -> Program:
        """What an approval names."""
        return Program(digest=self.digest)

    def run_in(self, pod: Pod, *, has_capabilities: bool = True, shares_processes: bool = True) -> Actor:
        """Run it in a pod."""
        return Actor(self, pod, has_capabilities=has_capabilities, shares_processes=shares_processes)


def make_executable(directory: Path, name: str, *, size: int = 0) -> Executable:
    """Copy the Python executable under another name, with its name appended, so that its digest is its own.

    Arguments:
        size: at least that many bytes, by a hole at the end.
    """
    path = directory / name
    shutil.copy(_ORIGINAL, path)
    with path.open("ab") as file:
        file.write(name.encode())
        if size:
            file.truncate(max(size, file.tell()))
    path.chmod(0o755)
    return Executable(path=path)


class ActorError(Exception):
    """The program couldn't do what it was told, or has ended."""


class Actor:
    """A running program. Each method of ``actor`` is one of its own, by the same name."""

    def __init__(
        self, executable: Executable, pod: Pod, *, has_capabilities: bool = True, shares_processes: bool = True
    ) -> None:
        self.executable = executable
        self.pod = pod
        self._child = pod.start(
            [str(executable.path), "-S", actor.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONHOME": sys.base_prefix},
            has_capabilities=has_capabilities,
            shares_processes=shares_processes,
        )
        self._hear()

    @property
    def pid(self) -> int:
        """Its process ID within the pod."""
        return self.pod.local_pid(self._child.pid)

    def begin(self, verb: str, *arguments: Any, **options: Any) -> None:
        """Tell it what to do; ``answer`` waits for its answer."""
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps([verb, arguments, options]) + "\n")
        self._child.stdin.flush()

    def answer(self) -> Any:
        """Wait for the answer to ``begin``."""
        return self._hear()

    def do(self, verb: str, *arguments: Any, **options: Any) -> Any:
        """Have it do something, and return its answer."""
        self.begin(verb, *arguments, **options)
        return self.answer()

    def end(self) -> None:
        """Kill it."""
        end(self._child)

    def __enter__(self) -> Actor:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def _hear(self) -> Any:
        assert self._child.stdout is not None
        ready, _, _ = select.select([self._child.stdout], [], [], _ANSWER_S)
        line = self._child.stdout.readline() if ready else ""
        if not line:
            raise ActorError(f"{self.executable.path.name} gave no answer (code {self._child.poll()})")
        answer = json.loads(line)
        if isinstance(answer, dict) and "failure" in answer:
            raise ActorError(answer["failure"])
        return answer
