"""Which package a program's file belongs to, by dpkg's, apk's or rpm's database in its own root file system. Does I/O.

Belongs here: where those files are, and the formats of the first two. Doesn't: rpm's (``sqlite_file.py``,
``rpm_header.py``), or which process is looked at (``surroundings.py``).

Whoever can write in the container can write these databases, and nothing is compared with the file's content: it is
evidence for people, beside a digest that is proven. Every file is opened below the root directory, never through a
link that leads out of it, and must be a regular one; what is read is bounded. rpm's database is SQLite's, and is read
as bytes: a database library on a file that the container's author has written is more than a sidecar with keys should
run for it. Its older kinds, Berkeley DB and ndb, aren't read, which is said instead of a name.

Sources: dpkg(1), dpkg-query(1) ``info/*.list``; distroless' ``status.d``; apk-tools' ``lib/apk/db/installed``;
rpm's ``lib/backend/sqlite.c``.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

from sidecar.attest.filesystem import open_in_root
from sidecar.sightings.rpm_header import MAX_HEADER_BYTES, OwnerSearch, RpmHeaderError
from sidecar.sightings.sqlite_file import SqliteFile, SqliteFileError

MAX_LISTS = 8_192
MAX_FILE_BYTES = 16 * 1024 * 1024
MAX_TOTAL_BYTES = 128 * 1024 * 1024
_MAX_NAME_CHARACTERS = 200
_DPKG = "var/lib/dpkg"
_APK = ("lib/apk/db/installed", "usr/lib/apk/db/installed")
_RPM = ("usr/lib/sysimage/rpm", "var/lib/rpm")
_RPM_SQLITE = "rpmdb.sqlite"
_RPM_OTHERS = {"Packages.db": "ndb", "Packages": "Berkeley DB"}


class _Budget:
    """How many bytes may still be read."""

    def __init__(self) -> None:
        self.left = MAX_TOTAL_BYTES

    def read(self, directory: int, path: str) -> bytes:
        """Return a regular file's content; nothing where it isn't one, is too large, or isn't there."""
        try:
            with _opened(directory, path) as (file, size):
                if size > min(MAX_FILE_BYTES, self.left):
                    return b""
                self.left -= size
                return _read_all(file, size)
        except OSError:
            return b""

    def read_part(self, file: int, offset: int, size: int) -> bytes:
        """Return bytes of an open file; fewer at its end.

        Raises:
            OSError: it can't be read, or there is nothing left to be read.
        """
        if size > self.left:
            raise OSError("more than is read of databases")
        self.left -= size
        return os.pread(file, size, offset)


def find_package(root: int, path: str) -> str:
    """Return ``name version (dpkg)``, ``(apk)`` or ``(rpm)`` of the package that owns a file; empty: none is known to.

    Where rpm's database can't be read, what is returned says that, and begins with ``unknown``.

    Arguments:
        root: an open directory: the root of the process's file system.
        path: of the file, absolute, in that root.
    """
    budget = _Budget()
    # Since /bin is a link to /usr/bin, packages name their files by either.
    paths = [path, path.removeprefix("/usr") if path.startswith("/usr/") else f"/usr{path}"]
    found = _find_dpkg(root, paths, budget) or _find_apk(root, paths, budget) or _find_rpm(root, paths, budget)
    return found if found.isprintable() and len(found) <= _MAX_NAME_CHARACTERS else ""


def _find_dpkg(root: int, paths: list[str], budget: _Budget) -> str:
    lines = [b"\n" + os.fsencode(path) + b"\n" for path in paths]
    name = _search(root, f"{_DPKG}/info", ".list", lines, budget)
    if name:
        name = name.partition(":")[0]
        return _describe(name, budget.read(root, f"{_DPKG}/status"), "dpkg")
    # Distroless images: one file for each package, its files in a list of MD5 sums without the leading slash.
    ends = [b"  " + os.fsencode(path.lstrip("/")) + b"\n" for path in paths]
    name = _search(root, f"{_DPKG}/status.d", ".md5sums", ends, budget)
    return _describe(name, budget.read(root, f"{_DPKG}/status.d/{name}"), "dpkg") if name else ""


def _search(root: int, folder: str, suffix: str, wanted: list[bytes], budget: _Budget) -> str:
    """Return the name, without the suffix, of the file in a folder that holds one of these bytes."""
    try:
        directory = open_in_root(root, os.fsencode(folder), os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return ""
    try:
        with os.scandir(directory) as entries:
            for entry in islice(entries, MAX_LISTS):
                if not entry.name.endswith(suffix):
                    continue
                content = b"\n" + budget.read(directory, entry.name) + b"\n"
                if any(each in content for each in wanted):
                    return entry.name.removesuffix(suffix)
    except OSError:
        return ""
    finally:
        os.close(directory)
    return ""


def _describe(name: str, status: bytes, kind: str) -> str:
    """Add the version that a file of paragraphs has for a package."""
    text = b"\n" + status
    start = text.find(b"\nPackage: " + os.fsencode(name) + b"\n")
    end = text.find(b"\n\n", start) if start >= 0 else -1
    paragraph = text[start : end if end >= 0 else None] if start >= 0 else b""
    version = _read_field(paragraph, b"\nVersion: ")
    return " ".join(filter(None, (name, version, f"({kind})")))


def _find_apk(root: int, paths: list[str], budget: _Budget) -> str:
    for database in _APK:
        content = budget.read(root, database)
        for path in paths:
            folder, _, base = os.fsencode(path.lstrip("/")).rpartition(b"/")
            if (found := _search_apk(content, folder, base)) is not None:
                name, version = found
                return " ".join(filter(None, (name, version, "(apk)"))) if name else ""
    return ""


def _search_apk(content: bytes, folder: bytes, base: bytes) -> tuple[str, str] | None:
    """Return name and version of the package that has a file, in one pass: the content may be as an attacker likes it.

    An empty line ends a package; ``F:`` names a folder of it, ``R:`` a file in the folder named last.
    """
    wanted_folder, wanted_file = b"F:" + folder, b"R:" + base
    if b"\n" + wanted_file + b"\n" not in content:
        return None
    name = version = b""
    is_in_folder = False
    for line in io.BytesIO(content):
        line = line.removesuffix(b"\n")
        if not line:
            name = version = b""
            is_in_folder = False
        elif line.startswith(b"F:"):
            is_in_folder = line == wanted_folder
        elif is_in_folder and line == wanted_file:
            return _decode(name), _decode(version)
        elif line.startswith(b"P:"):
            name = name or line[2:]
        elif line.startswith(b"V:"):
            version = version or line[2:]
    return None


def _find_rpm(root: int, paths: list[str], budget: _Budget) -> str:
    for folder in _RPM:
        database = f"{folder}/{_RPM_SQLITE}"
        if _measure(root, database):
            try:
                return _search_rpm(root, database, paths, budget)
            except (OSError, SqliteFileError, RpmHeaderError):
                return "unknown: rpm's database can't be read"
        for other, kind in _RPM_OTHERS.items():
            if _measure(root, f"{folder}/{other}"):
                return f"unknown: rpm's database is {kind}, which isn't read"
    return ""


def _search_rpm(root: int, database: str, paths: list[str], budget: _Budget) -> str:
    folders = tuple(os.fsencode(path.rpartition("/")[0] + "/") for path in paths)
    search = OwnerSearch(folders, os.fsencode(paths[0].rpartition("/")[2]))
    with _opened(root, database) as (file, _):
        before = os.fstat(file)
        found = ""
        rows = SqliteFile(lambda offset, size: budget.read_part(file, offset, size)).list_rows(
            "Packages", columns=2, max_row_bytes=MAX_HEADER_BYTES
        )
        for _, header in rows:
            if isinstance(header, bytes) and (owner := search.find_in(header)) is not None:
                found = f"{owner} (rpm)"
                break
        after = os.fstat(file)
    # While rpm writes, or where it was killed, the newest is beside the file, and the file may be between two states.
    is_written = (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns)
    if is_written or _measure(root, f"{database}-wal") or _measure(root, f"{database}-journal"):
        return "unknown: rpm's database is being written"
    return found


def _read_field(text: bytes, label: bytes) -> str:
    _, found, rest = text.partition(label)
    return _decode(rest.partition(b"\n")[0]) if found else ""


def _decode(text: bytes) -> str:
    return text.decode(errors="replace").strip()


def _measure(directory: int, path: str) -> int:
    """Return a regular file's size; 0 where there is none."""
    try:
        with _opened(directory, path) as (_, size):
            return size
    except OSError:
        return 0


@contextmanager
def _opened(directory: int, path: str) -> Iterator[tuple[int, int]]:
    """Give a descriptor to read a regular file, and its size.

    Raises:
        OSError: it isn't a regular one, or can't be opened. (FileNotFoundError: it isn't there.)
    """
    found = open_in_root(directory, os.fsencode(path), os.O_PATH)
    try:
        # Only a path-only descriptor so far: opening a pipe or a device could wait or have effects, and a terminal
        # would become the one whose signals this process gets.
        status = os.fstat(found)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("not a regular file")
        file = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    finally:
        os.close(found)
    try:
        yield file, status.st_size
    finally:
        os.close(file)


def _read_all(file: int, size: int) -> bytes:
    parts = []
    while size > 0 and (part := os.read(file, min(size, 1 << 20))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
