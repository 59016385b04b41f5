"""An executable file: its digest, and whether approving it approves any code that it is given to run. Does I/O.

The check for interpreters and multi-call binaries prevents mistakes; it is no defence: it knows common names and
strings in the file, and can't recognise every program that runs other people's code.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.model.errors import InputError
from shared.model.identity.program import weak_kind

_WEAK_NAMES: Final = re.compile(
    r"(python|pypy|perl|ruby|node|nodejs|deno|bun|php|lua|luajit|java|tclsh|wish|guile|erl|beam\.smp|julia|Rscript|R"
    r"|dotnet|mono|gawk|mawk|awk|expect|sh|bash|dash|ash|zsh|ksh|mksh|fish|tcsh|csh|pwsh"
    r"|busybox|toybox|coreutils|env|socat|xargs|ld-linux.*|ld-musl.*)[0-9.]*",
)
_WEAK_MARKS: Final[tuple[tuple[bytes, str], ...]] = (
    (b"BusyBox v", "BusyBox, a multi-call binary"),
    (b"Py_BytesMain", "a Python interpreter"),
    (b"perl_construct", "a Perl interpreter"),
    (b"ruby_run_node", "a Ruby interpreter"),
    (b"GNU bash, version", "the shell bash"),
    (b"NODE_OPTIONS", "Node.js"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Executable:
    """One executable file.

    Attributes:
        digest: SHA-256 of its content, 64 hexadecimal digits.
        weakness: what makes its approval weak, such as ``a Python interpreter``; empty when nothing is known.
    """

    path: str
    digest: str
    weakness: str


def read_executable(path: Path) -> Executable:
    """Hash a program's file, following symbolic links, and look for signs of an interpreter.

    Raises:
        InputError: the file can't be read, isn't a regular file, is a script, or is no program at all.
    """
    resolved = os.path.realpath(path)
    content, digest = _read(resolved)
    if content[:2] == b"#!":
        interpreter = content[2:128].split(b"\n", 1)[0].decode(errors="replace").split()
        raise InputError(
            f"{path} is a script; the program that runs is its interpreter",
            hint=advise_on_weakness(interpreter[0] if interpreter else "INTERPRETER", script=str(path)),
        )
    if content[:4] != b"\x7fELF":
        raise InputError(f"{path} is not an ELF executable", hint="name an executable, or its digest sha256:…")
    return Executable(path=resolved, digest=digest, weakness=find_weakness(resolved) or _find_mark(resolved))


def advise_on_weakness(executable: str, *, script: str = "SCRIPT") -> str:
    """Say how an interpreter or multi-call binary is approved anyway: the hint for all such cases."""
    command = f"touchmark program approve WORKLOAD {executable} --weak"
    if weak_kind(executable) == "interpreter":
        return (
            f"{command} --main {script} approves it for that script only;"
            " --main none for code of its command line, a module (-m) or its standard input"
        )
    return f"{command} approves it anyway"


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal.

    Raises:
        InputError: the file can't be read or isn't a regular file.
    """
    return _read(os.path.realpath(path))[1]


def name_executable(path: str) -> str:
    """Return the last part of a path as decisions show it, also of a deleted file (``proc(5)``)."""
    return os.path.basename(path.removesuffix(" (deleted)"))


def find_weakness(path: str) -> str:
    """Say by the path's last part alone what makes an approval weak; empty when nothing is known."""
    name = name_executable(path)
    return f"{name}, an interpreter or multi-call binary" if _WEAK_NAMES.fullmatch(name) else ""


def _read(path: str) -> tuple[bytes, str]:
    try:
        with open(path, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InputError(f"{path} is not a regular file")
            start = file.read(256)
            file.seek(0)
            return start, hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"can't read {path}: {error.strerror}", hint="name an executable file or a digest") from error


def _find_mark(path: str) -> str:
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return ""
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            for mark, meaning in _WEAK_MARKS:
                if content.find(mark) >= 0:
                    return meaning
    return ""
