"""Exit codes of every command, as one table that ``touchmark --help`` and the documentation show. Pure."""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class ExitCode(IntEnum):
    """What the command's end says to a script."""

    SUCCESS = 0
    FAILURE = 1
    BAD_INPUT = 2
    CHECK_FAILED = 3
    NOT_FOUND = 4
    CONFLICT = 5
    UNAVAILABLE = 6
    REFUSED = 7
    MACHINE = 8
    DEADLINE = 9
    INTERRUPTED = 130


EXIT_CODES: Final[dict[ExitCode, str]] = {
    ExitCode.SUCCESS: "done",
    ExitCode.FAILURE: "failed; the message says why",
    ExitCode.BAD_INPUT: "an option, a file or a name can't be used",
    ExitCode.CHECK_FAILED: "a check says no: `mode --check`, `inject --check`, `status`, `doctor` or `demo` found a ✗",
    ExitCode.NOT_FOUND: "the named thing doesn't exist",
    ExitCode.CONFLICT: "somebody else changed it, or its state doesn't allow this now",
    ExitCode.UNAVAILABLE: "the CA can't be reached, or it doesn't answer in time",
    ExitCode.REFUSED: "the CA understood and refused, or you answered no",
    ExitCode.MACHINE: "this machine lacks a program, a capability or a kernel feature",
    ExitCode.DEADLINE: "the change is made, but not everybody confirmed it in the time given; laggards are named",
    ExitCode.INTERRUPTED: "interrupted (Ctrl-C)",
}


def format_exit_codes() -> str:
    """Write the table as the help page's last lines."""
    return "Exit codes: " + " · ".join(f"{code.value} {meaning}" for code, meaning in EXIT_CODES.items())
