"""What an interpreter says that it runs: the main script's path, read from its arguments. Pure.

A *claim*: a process can rewrite its arguments, and search paths, preloads and configuration can run other code besides.
Wherever the command line leaves doubt the answer is "no script" (``/main/none``), which only an approval of exactly
that matches.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from shared.model.identity.program import weak_kind


@dataclass(frozen=True, slots=True, kw_only=True)
class _Syntax:
    """How one family of interpreters reads its options.

    Attributes:
        valued: options that take the next argument.
        code: options after which the code doesn't come from a script file.
        joined: single letters whose value may follow in the same argument, so that the rest of a cluster is a value.
        script: the option that names the script, for those that don't take it as their first plain argument.
        is_clustered: single-letter options may be written together (``-ne``).
    """

    valued: frozenset[str] = frozenset()
    code: frozenset[str] = frozenset()
    joined: frozenset[str] = frozenset()
    script: str = ""
    is_clustered: bool = True


def _syntax(valued: str = "", code: str = "", joined: str = "", script: str = "", *, clusters: bool = True) -> _Syntax:
    return _Syntax(
        valued=frozenset(valued.split()),
        code=frozenset(code.split()),
        joined=frozenset(joined),
        script=script,
        is_clustered=clusters,
    )


_SHELL = _syntax("-o +o -O +O --rcfile --init-file", "-c -s -i --help --version")
_AWK = _syntax("-F -v -i -l --field-separator --assign", "-e --source", "Fvil", "-f")
_NODE_VALUED = "-r --require --import --loader --experimental-loader -C --conditions --env-file --title"
_FAMILIES: tuple[tuple[re.Pattern[str], _Syntax], ...] = (
    (re.compile(r"python|pypy"), _syntax("-W -X --check-hash-based-pycs", "-c -m -i", "WX")),
    (re.compile(r"r?bash|sh|dash|ash|zsh|m?ksh|yash"), _SHELL),
    (re.compile(r"perl"), _syntax("-I", "-e -E -x", "IMmCDdFilx0")),
    (re.compile(r"ruby"), _syntax("-I -r -C -E", "-e -x", "IrCEFiKTWx0")),
    (re.compile(r"node|nodejs"), _syntax(_NODE_VALUED, "-e --eval -p --print -pe -i", clusters=False)),
    (re.compile(r"php"), _syntax("-c -d -z -t", "-r -B -R -E -F -S -a", "cdzt", "-f")),
    (re.compile(r"lua|luajit"), _syntax("-l -j -O -b", "-e -i", "l")),
    (re.compile(r"awk|[gmn]awk|original-awk"), _AWK),
    (re.compile(r"java"), _syntax("-cp -classpath --class-path -p --module-path --add-modules", "-m", "", "-jar")),
    (re.compile(r"tclsh|wish|fish|csh|tcsh|ld-(?:linux|musl).*|ld"), _syntax(clusters=False)),
)
_VERSION = re.compile(r"(?:[-.]?v?[0-9][0-9.]*[a-z]{0,2})?(?:[-.](?:static|bin|exe|smp|real|distrib))*$")


def is_interpreter(path: str) -> bool:
    """Tell whether an executable is an interpreter, by its name."""
    return weak_kind(path) == "interpreter"


def find_main_script(path: str, arguments: Sequence[bytes]) -> bytes | None:
    """Find the main script in an interpreter's arguments.

    Arguments:
        path: of the executable, which decides how the arguments are read.
        arguments: the whole argument vector, ``arguments[0]`` included.

    Returns:
        The script's path as the process wrote it; None when code comes from elsewhere, or when that can't be told.
    """
    syntax = _find_syntax(path)
    rest = [argument.decode("utf-8", "surrogateescape") for argument in arguments[1:]]
    while syntax is not None and rest:
        argument = rest.pop(0)
        if argument == "--":
            return _take(rest) if not syntax.script else None
        if argument in ("-", "") or argument in syntax.code:
            return None
        if argument == syntax.script:
            return _take(rest)
        if not argument.startswith(("-", "+")):
            # An interpreter that names its script by an option treats a plain argument as code; PHP takes both.
            return argument.encode("utf-8", "surrogateescape") if _takes_plain(path, syntax) else None
        if argument in syntax.valued:
            if not rest:
                return None
            rest.pop(0)
        elif not _is_harmless(argument, syntax):
            return None
    return None


def _find_syntax(path: str) -> _Syntax | None:
    name = path.removesuffix(" (deleted)").rpartition("/")[2].lower()
    stem = _VERSION.sub("", name)
    for pattern, syntax in _FAMILIES:
        if pattern.fullmatch(name) or pattern.fullmatch(stem):
            return syntax
    return None


def _takes_plain(path: str, syntax: _Syntax) -> bool:
    return not syntax.script or "php" in path.rpartition("/")[2].lower()


def _take(rest: list[str]) -> bytes | None:
    return rest[0].encode("utf-8", "surrogateescape") if rest and rest[0] not in ("", "-") else None


def _is_harmless(argument: str, syntax: _Syntax) -> bool:
    """Tell whether an option neither brings code nor takes the next argument; unknown long ones count as harmful."""
    if argument.startswith("--"):
        name = argument.partition("=")[0]
        return "=" in argument and name not in syntax.code
    if not syntax.is_clustered or len(argument) == 1:
        return False
    if syntax.script == "-jar":  # Java's options are words; those with a value in the same word start like these.
        return argument.startswith(("-X", "-D", "-ea", "-da", "-server", "-verbose"))
    for position, letter in enumerate(argument[1:], start=2):
        option = argument[0] + letter
        if option in syntax.code or option == syntax.script:
            return False
        if letter in syntax.joined and position <= len(argument):
            return position < len(argument) or option not in syntax.valued
        if option in syntax.valued:
            return False
    return True
