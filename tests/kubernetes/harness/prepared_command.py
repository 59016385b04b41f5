"""Runs the command ``touchmark`` in processes that have loaded it already: to load it costs a second of CPU each time.

A process loads all of it once and forks for each call; what is forked goes on as ``python -m cli``. I/O.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pkgutil
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_POLL_S = 0.02


class PreparedCommand:
    """The command, ready to run; from several threads at once."""

    def __init__(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-m", __name__], stdin=subprocess.PIPE)

    def close(self) -> None:
        """End it; what it runs is killed."""
        self._process.kill()
        self._process.communicate()

    def run(
        self, arguments: Sequence[str], *, environment: Mapping[str, str], timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        """Return the finished ``touchmark ARGUMENTS``, whatever its exit code; it reads nothing from its input.

        Raises:
            subprocess.TimeoutExpired: it was killed.
        """
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            request = {"arguments": list(arguments), "environment": dict(environment), "directory": name}
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            deadline = time.monotonic() + timeout_s
            while not (directory / "code").exists():
                assert self._process.poll() is None, "the prepared command has ended"
                if time.monotonic() >= deadline:
                    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                        os.kill(int((directory / "pid").read_text()), signal.SIGKILL)
                    raise subprocess.TimeoutExpired(["touchmark", *arguments], timeout_s, *_read(directory))
                time.sleep(_POLL_S)
            return subprocess.CompletedProcess(
                ["touchmark", *arguments], int((directory / "code").read_text()), *_read(directory)
            )


def _read(directory: Path) -> tuple[str, str]:
    return (directory / "out").read_text(encoding="utf-8"), (directory / "err").read_text(encoding="utf-8")


def main() -> None:
    """Load everything, then run what standard input asks for, until it ends."""
    import cli
    from cli.main import run

    for module in pkgutil.walk_packages(cli.__path__, "cli."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        run(["--help"])  # Once it has made its tree of commands, it keeps it.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # Nobody waits for who watches a command.
    for line in sys.stdin.buffer:
        if os.fork() == 0:
            _watch(json.loads(line))


def _watch(request: Mapping[str, Any]) -> None:
    """Run one command in a process of its own, and write down how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    directory = Path(request["directory"])
    for name in ("out", "err"):
        (directory / name).touch()
    command = os.fork()
    if command == 0:
        _become(request, directory)
    (directory / "pid").write_text(str(command))
    code = os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])
    with contextlib.suppress(FileNotFoundError):  # Who asked has given up.
        (directory / "written").write_text(str(code))
        (directory / "written").rename(directory / "code")
    os._exit(0)


def _become(request: Mapping[str, Any], directory: Path) -> None:
    code = 1
    try:
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.argv[1:] = request["arguments"]
        for descriptor, path in ((0, Path(os.devnull)), (1, directory / "out"), (2, directory / "err")):
            opened = os.open(path, os.O_RDWR)
            os.dup2(opened, descriptor)
            os.close(opened)
        # Of the line that this process was asked by, some may have been read already: nobody's business here.
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 (for its whole life)
        try:
            runpy.run_module("cli", run_name="__main__", alter_sys=True)
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
