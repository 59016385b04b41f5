"""Compiles ``loop.c`` and what is beside it, one extension: ``python -m sidecar.native.build``. Runs on a bare Python.

Belongs here: finding compiler and headers, flags, what is current already. Doesn't: using the result (``engine.py``).
Nothing is compiled while the sidecar runs: ``make setup``, the image's build stage and the wheel's build call this. A
sidecar beside its source asks for the digest alone, so that what only compiling takes is imported where it compiles.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent
SOURCE: Final = FOLDER / "loop.c"
# Compiled with it into one extension, and what they include.
OTHERS: Final = tuple(FOLDER / name for name in ("look.c", "mover.c", "mover_type.c", "moves.c"))
HEADERS: Final = tuple(FOLDER / name for name in ("loop.h", "mover.h", "moves.h"))
NAME: Final = "_loop.abi3.so"
_FLAGS: Final = (
    "-std=c11", "-D_GNU_SOURCE", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-fstack-protector-strong",
    "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wl,-z,relro,-z,now,-z,noexecstack",
)  # fmt: skip
_TIMEOUT_S: Final = 120


class BuildError(Exception):
    """The loop can't be compiled here; the message says what is missing."""


def find_compiler() -> list[str]:
    """Return the compiler's command: ``$CC``, or the first of cc, gcc and clang.

    Raises:
        BuildError: there is none, or Python's headers are missing.
    """
    import shlex
    import shutil
    import sysconfig

    headers = Path(sysconfig.get_path("include")) / "Python.h"
    if not headers.is_file():
        raise BuildError(f"Python's headers are missing ({headers}; Debian: apt install python3-dev)")
    if command := shlex.split(os.environ.get("CC", "")):
        if shutil.which(command[0]):
            return command
        raise BuildError(f"CC={command[0]} isn't there")
    for name in ("cc", "gcc", "clang"):
        if shutil.which(name):
            return [name]
    raise BuildError("no C compiler: no cc, gcc or clang (Debian: apt install gcc libc6-dev)")


def build(folder: Path = FOLDER, *, flags: Sequence[str] = ()) -> Path:
    """Compile all into ``folder``, unless what is there was made from these sources with these flags.

    Raises:
        BuildError: it can't be compiled.
    """
    import subprocess
    import sysconfig

    target = folder / NAME
    name = digest(flags)
    # The digest is in the file, so that no second file can disagree with it.
    if target.is_file() and name.encode() in target.read_bytes():
        return target
    compiler = find_compiler()
    made = target.with_suffix(f".{os.getpid()}")
    include = sysconfig.get_path("include")
    command = [
        *compiler, *_FLAGS, *flags, f'-DSOURCE_DIGEST="{name}"', f"-I{include}", f"-I{FOLDER}",
        f"-ffile-prefix-map={FOLDER}=.", *map(str, (SOURCE, *OTHERS)), "-pthread", "-o", str(made),
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{compiler[0]} failed: {error}") from error
    if done.returncode:
        made.unlink(missing_ok=True)
        raise BuildError(f"{compiler[0]} failed: {(done.stderr or done.stdout).strip()[-2000:]}")
    made.replace(target)
    return target


def digest(flags: Sequence[str] = ()) -> str:
    """Return what names these sources and these flags in what is built from them."""
    made_of = [each.read_bytes() for each in (SOURCE, *OTHERS, *HEADERS)]
    made_of += [flag.encode() for flag in (*_FLAGS, *flags)]
    return hashlib.sha256(b"\0".join(made_of)).hexdigest()


def main(arguments: list[str]) -> int:
    """Build beside the source; with a folder, into that."""
    if len(arguments) > 1 or any(each.startswith("-") for each in arguments):
        print("usage: python -m sidecar.native.build [FOLDER]", file=sys.stderr)
        return 2
    try:
        build(*map(Path, arguments))
    except BuildError as error:
        print(f"the native engine isn't built: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
