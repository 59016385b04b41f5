"""Programs: what a process runs, as far as it can be proven.

Belongs here: the digest value and its notation. Doesn't: how it is measured (``sidecar/attest``). Pure.
"""

from __future__ import annotations

import re

import msgspec

from shared.model.errors import IdentityError

NO_MAIN = "none"
_HEX = re.compile(r"[0-9a-f]{64}")
_INTERPRETER = re.compile(
    r"(?:ld-(?:linux|musl).*|ld-[0-9.]+\.so)"
    r"|(?:python|pypy|bash|rbash|sh|dash|ash|zsh|ksh|mksh|yash|fish|csh|tcsh|pwsh|perl|ruby|irb|node|nodejs|deno|bun|java|php"
    r"|php-cgi|php-fpm|lua|luajit|awk|gawk|mawk|nawk|original-awk|tclsh|wish|expect|guile|rscript|r|julia|elixir|beam|escript"
    r"|dotnet|mono|groovy|scala|racket|sbcl|osascript|gdb|qemu-[a-z0-9_]+)"
    r"(?:[-.]?v?[0-9][0-9.]*[a-z]{0,2})?(?:[-.](?:static|bin|exe|smp|real|distrib))*"
)
_MULTI_CALL = re.compile(r"(?:busybox|toybox|coreutils|uutils|sbase-box|ubase-box)(?:[-.][a-z0-9.]+)*")
_DELETED = " (deleted)"


class Program(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """The SHA-256 of an executable and, for interpreters, a claim about the main script.

    Attributes:
        digest: 64 lower-case hexadecimal digits, the SHA-256 of the executable file's content.
        main: empty for a program that is not an interpreter; else 64 hexadecimal digits (SHA-256 of the main script,
            which the process names itself: a *claim*) or ``"none"`` when there is no script (``-c``, ``-m``, stdin).

    Raises:
        IdentityError: a digest isn't 64 lower-case hexadecimal digits.
    """

    digest: str
    main: str = ""

    def __post_init__(self) -> None:
        if not _HEX.fullmatch(self.digest):
            raise IdentityError(f"not a SHA-256 digest in lower-case hexadecimal: {self.digest[:80]!r}")
        if self.main and self.main != NO_MAIN and not _HEX.fullmatch(self.main):
            raise IdentityError(f"not a SHA-256 digest of a main script: {self.main[:80]!r}")

    def __str__(self) -> str:
        return format_program(self)


def format_program(program: Program) -> str:
    """Write a program as ``sha256:<hex>`` or ``sha256:<hex>/main:<hex or none>``, as commands and YAML show it."""
    text = f"sha256:{program.digest}"
    return f"{text}/main:{program.main}" if program.main else text


def parse_program(text: str) -> Program:
    """Read ``sha256:<hex>[/main:<hex|none>]`` (the prefix ``sha256:`` may be left out).

    Raises:
        IdentityError: the text has another shape.
    """
    digest, _, main = text.strip().partition("/")
    digest = digest.removeprefix("sha256:").lower()
    if main and not main.startswith("main:"):
        raise IdentityError(f"not a program: {text[:160]!r}")
    main = main.removeprefix("main:")
    if "/" in text and not main:
        raise IdentityError(f"not a program: {text[:160]!r}")
    return Program(digest=digest, main=main if main == NO_MAIN else main.removeprefix("sha256:").lower())


def weak_kind(path: str) -> str:
    """Guess from an executable's name whether its digest alone says little about what it does.

    A hint for people and the switch for the claim about a main script: a renamed copy isn't recognised, and keeps the
    digest of the original.

    Arguments:
        path: of the executable, as in ``/proc/<pid>/exe``.

    Returns:
        ``"interpreter"``, ``"multi-call"`` (busybox and its like), or ``""``.
    """
    name = path.removesuffix(_DELETED).rpartition("/")[2].lower()
    if _INTERPRETER.fullmatch(name):
        return "interpreter"
    return "multi-call" if _MULTI_CALL.fullmatch(name) else ""
