"""What an executable loads at its start: the objects that its dynamic loader names, each with its digest. Does I/O.

The executable itself is never run: its loader (``ld.so``) is, with ``--list``, which maps the objects and prints where
they are. An executable names its own loader, so only a C library's is started, in root's hands or the very one that
started this process. What a program loads
later (``dlopen``: NSS, gconv, OpenSSL's providers, plugins) isn't among it, nor is what ``LD_PRELOAD`` or
``/etc/ld.so.preload`` names elsewhere: the list is that of this machine's files.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from cli.machine.executable import digest_file
from shared.model.errors import InputError
from shared.model.identity.loaded_code import MAX_OBJECTS, LoadedObject

_TIMEOUT_S: Final = 20.0
_MAX_HEADERS: Final = 128
_MAX_DYNAMIC_BYTES: Final = 1 << 20
_PAGE: Final = 4096
_PT_LOAD: Final = 1
_PT_DYNAMIC: Final = 2
_PT_INTERP: Final = 3
# The loader runs code of these modules even where it only lists (seen with glibc).
_AUDITORS: Final = frozenset((0x6FFFFEFC, 0x6FFFFEFB))
_ADVICE: Final = "name the files with --loads, take them from decisions later, or approve with --code off"
_LOADER: Final = re.compile(r"ld-linux[-.a-z0-9_]*|ld-musl[-.a-z0-9_]*|ld64?\.so\.[0-9]|ld-[0-9.]+\.so|libc\.so")
# glibc: `libc.so.6 => /lib/libc.so.6 (0x…)`, `/lib64/ld-linux-x86-64.so.2 (0x…)`; musl prints the same.
_LINE: Final = re.compile(r"^\s*(?:(?P<name>\S.*) => )?(?P<path>/.*) \(0x[0-9a-f]+\)$")
_MISSING: Final = re.compile(r"^\s*(?P<name>\S.*) => not found$|^Error loading shared library (?P<other>[^:]+):")


def list_loaded(path: Path) -> tuple[LoadedObject, ...]:
    """Return what a program's loader maps before the program runs: the loader itself and all libraries, by path.

    Returns:
        Nothing for a static executable.

    Raises:
        InputError: no ELF executable, an unknown loader, a library that isn't found, or too many of them.
    """
    loader = read_loader(path)
    if loader is None:
        return ()
    _check_loader(path, loader)
    try:
        listed = subprocess.run(
            [loader, "--list", os.path.realpath(path)],
            env={}, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S,
            check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(f"{loader} can't list what {path} loads: {error}") from error
    lines = (listed.stdout + listed.stderr).splitlines()
    if missing := [found["name"] or found["other"] for line in lines if (found := _MISSING.match(line))]:
        raise InputError(f"{path} loads {missing[0]}, which isn't on this machine", hint=_ADVICE)
    if listed.returncode != 0:
        raise InputError(f"{loader} can't list what {path} loads: {''.join(lines[:1])[:200]}", hint=_ADVICE)
    paths = {os.path.realpath(found["path"]) for line in lines if (found := _LINE.match(line))}
    return read_objects([Path(each) for each in {*paths, os.path.realpath(loader)}])


def read_objects(paths: list[Path]) -> tuple[LoadedObject, ...]:
    """Hash files that a program may load, and return them by path; each content once.

    Raises:
        InputError: one can't be read, or there are too many.
    """
    found: dict[str, LoadedObject] = {}
    for path in sorted(paths):
        digest = digest_file(path)
        found.setdefault(digest, LoadedObject(path=_show(os.path.realpath(path)), digest=digest))
    if len(found) > MAX_OBJECTS:
        raise InputError(f"{len(found)} loaded objects; an approval names at most {MAX_OBJECTS}")
    return tuple(found.values())


def read_loader(path: Path) -> str | None:
    """Return the dynamic loader that an ELF executable names; None for a static one.

    Source: elf(5), ``PT_INTERP``; link.h, ``DT_AUDIT``.

    Raises:
        InputError: the file can't be read, is no ELF file, or names auditing modules, whose code would run.
    """
    try:
        with open(path, "rb") as file:
            segments = list(_read_segments(file, path))
            for dynamic in (each for each in segments if each.kind == _PT_DYNAMIC):
                if not _is_where_it_says(dynamic, segments) or _names_auditors(file, path, dynamic):
                    raise InputError(f"{path} may name auditing modules, which its loader would run", hint=_ADVICE)
            for each in segments:
                if each.kind == _PT_INTERP:
                    file.seek(each.place)
                    return file.read(min(each.length, 4096)).rstrip(b"\0").decode("utf-8", "replace")
            return None
    except OSError as error:
        raise InputError(f"can't read {path}: {error.strerror}") from error
    except (struct.error, ValueError, OverflowError) as error:
        raise InputError(f"{path} is not an ELF executable") from error


class _Segment(NamedTuple):
    """A segment: its place and length in the file, its address and length in memory."""

    kind: int
    place: int
    length: int
    address: int
    size: int


def _read_segments(file: BinaryIO, path: Path) -> Iterator[_Segment]:
    is_64, order = _read_shape(file, path)
    start = file.read(64)
    if is_64:
        (offset,) = struct.unpack_from(f"{order}Q", start, 32)
        size, count = struct.unpack_from(f"{order}HH", start, 54)
    else:
        (offset,) = struct.unpack_from(f"{order}I", start, 28)
        size, count = struct.unpack_from(f"{order}HH", start, 42)
    for number in range(min(count, _MAX_HEADERS)):
        file.seek(offset + number * size)
        header = file.read(size)
        shape = f"{order}I4xQQ8xQQ" if is_64 else f"{order}III4xII"
        kind, place, address, length, in_memory = struct.unpack_from(shape, header, 0)
        yield _Segment(kind, place, length, address, in_memory)


def _is_where_it_says(dynamic: _Segment, segments: list[_Segment]) -> bool:
    """Tell whether the loader finds the dynamic section, which it reads from memory, where the file says."""
    end = dynamic.address + dynamic.length
    covering = [
        each
        for each in segments
        if each.kind == _PT_LOAD
        and each.address // _PAGE <= (end - 1) // _PAGE
        and (each.address + each.size - 1) // _PAGE >= dynamic.address // _PAGE
    ]
    inside = [
        each
        for each in covering
        if each.address <= dynamic.address
        and end <= each.address + each.length
        and dynamic.place - each.place == dynamic.address - each.address
    ]
    return len(covering) == 1 and len(inside) == 1


def _names_auditors(file: BinaryIO, path: Path, dynamic: _Segment) -> bool:
    is_64, order = _read_shape(file, path)
    file.seek(dynamic.place)
    content = file.read(min(dynamic.length, _MAX_DYNAMIC_BYTES))
    entry = struct.Struct(f"{order}QQ" if is_64 else f"{order}II")
    whole = content[: len(content) // entry.size * entry.size]
    return any(tag in _AUDITORS for tag, _ in entry.iter_unpack(whole))


def _read_shape(file: BinaryIO, path: Path) -> tuple[bool, str]:
    """Return whether the file is of 64 bits, and its byte order; then stand at its start."""
    file.seek(0)
    ident = file.read(16)
    if ident[:4] != b"\x7fELF" or len(ident) < 16:
        raise InputError(f"{path} is not an ELF executable")
    file.seek(0)
    return ident[4] == 2, "<" if ident[5] == 1 else ">"


def _check_loader(path: Path, loader: str) -> None:
    """See that the loader is one of a C library, and that nobody but root can change it, or that it has started us.

    In a user namespace without root (`touchmark demo` of an ordinary user) root's files are nobody's, as are those of
    all other users. The loader that started this process has run in it already: to start it again gives it nothing.

    Raises:
        InputError: it isn't: it is never started.
    """
    real = os.path.realpath(loader)
    try:
        status = os.stat(real)
    except OSError as error:
        raise InputError(f"{path} names the loader {loader}, which isn't on this machine", hint=_ADVICE) from error
    is_roots = status.st_uid == 0 and not status.st_mode & 0o022
    is_safe = stat.S_ISREG(status.st_mode) and (is_roots or _has_started_us(status))
    if not os.path.isabs(loader) or not _LOADER.fullmatch(os.path.basename(real)) or not is_safe:
        raise InputError(f"{path} names the loader {loader}, which isn't a C library's: it isn't started", hint=_ADVICE)


def _has_started_us(loader: os.stat_result) -> bool:
    own = read_loader(Path("/proc/self/exe"))
    return own is not None and os.path.samestat(os.stat(own), loader)


def _show(path: str) -> str:
    text = path if path.isascii() and path.isprintable() else path.encode("unicode_escape").decode("ascii")
    return text if len(text) <= 256 else f"...{text[-253:]}"
