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
    UNKNOWN = 10
    NOTHING = 11
    INTERRUPTED = 130


EXIT_CODES: Final[dict[ExitCode, str]] = {
    ExitCode.SUCCESS: "done",
    ExitCode.FAILURE: "failed; the message says why",
    ExitCode.BAD_INPUT: "an option, a file or a name is invalid",
    ExitCode.CHECK_FAILED: (
        "a check failed: `ready`, `mode --check`, `policy lint`, `policy diff`, `policy draft`, `policy export`,"
        " `inject --check` or `--explain`, `status`, `doctor`, `install`, `upgrade`, `uninstall`, `demo` or"
        " `audit` found a ✗"
    ),
    ExitCode.NOT_FOUND: "the named thing doesn't exist",
    ExitCode.CONFLICT: "it was changed in the meantime, or its state doesn't allow this",
    ExitCode.UNAVAILABLE: "the CA is unreachable or didn't answer in time",
    ExitCode.REFUSED: "the CA refused the request, or you answered no",
    ExitCode.MACHINE: "this machine lacks a program, a capability or a kernel feature",
    ExitCode.DEADLINE: (
        "the change is made, but not every sidecar confirmed it in time (the missing ones are listed), or the CA isn't"
        " ready in time (`install`, `upgrade`), or not everything is gone (`uninstall`)"
    ),
    ExitCode.UNKNOWN: (
        "`ready`, `policy diff`, `policy draft`: nothing blocks it, but too little was seen to say so;"
        " `explain`: allowed, but nobody knows the workload"
    ),
    ExitCode.NOTHING: "`program approve --from-decisions`: nothing was found, or nothing chosen",
    ExitCode.INTERRUPTED: "interrupted (Ctrl-C)",
}


def format_exit_codes() -> str:
    """Write the table as the help page's last lines."""
    return "Exit codes:\n" + "\n".join(f"{code.value:3} {meaning}" for code, meaning in EXIT_CODES.items())
