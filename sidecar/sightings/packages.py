"""Which package a program's file belongs to, by the databases of dpkg and apk in its own root file system. Does I/O.

Belongs here: those files' formats. Doesn't: which process is looked at (``surroundings.py``).

Whoever can write in the container can write these databases, and nothing is compared with the file's content: it is
evidence for people, beside a digest that is proven. Every file is opened below the root directory, never through a link
that leads out of it, and must be a regular one; what is read is bounded. rpm's database isn't read: it is SQLite, and a
database library on a file that the container's author has written is more than a sidecar with keys should run for it.

Sources: dpkg(1), dpkg-query(1) ``info/*.list``; distroless' ``status.d``; apk-tools' ``lib/apk/db/installed``.
"""

from __future__ import annotations

import io
import os
import stat
from itertools import islice

from sidecar.attest.filesystem import open_in_root

MAX_LISTS = 8_192
MAX_FILE_BYTES = 16 * 1024 * 1024
MAX_TOTAL_BYTES = 128 * 1024 * 1024
_MAX_NAME_CHARACTERS = 200
_DPKG = "var/lib/dpkg"
_APK = ("lib/apk/db/installed", "usr/lib/apk/db/installed")


class _Budget:
    """How many bytes may still be read."""

    def __init__(self) -> None:
        self.left = MAX_TOTAL_BYTES

    def read(self, directory: int, path: str) -> bytes:
        """Return a regular file's content; nothing where it isn't one, is too large, or isn't there."""
        try:
            found = open_in_root(directory, os.fsencode(path), os.O_PATH)
        except OSError:
            return b""
        try:
            # Only a path-only descriptor so far: opening a pipe or a device could wait or have effects, and a terminal
            # would become the one whose signals this process gets.
            status = os.fstat(found)
            if not stat.S_ISREG(status.st_mode) or status.st_size > min(MAX_FILE_BYTES, self.left):
                return b""
            self.left -= status.st_size
            return _read_all(found, status.st_size)
        except OSError:
            return b""
        finally:
            os.close(found)


def find_package(root: int, path: str) -> str:
    """Return ``name version (dpkg)`` or ``(apk)`` of the package that owns a file; empty: none is known to.

    Arguments:
        root: an open directory: the root of the process's file system.
        path: of the file, absolute, in that root.
    """
    budget = _Budget()
    # Since /bin is a link to /usr/bin, packages name their files by either.
    paths = [path, path.removeprefix("/usr") if path.startswith("/usr/") else f"/usr{path}"]
    found = _find_dpkg(root, paths, budget) or _find_apk(root, paths, budget)
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


def _read_field(text: bytes, label: bytes) -> str:
    _, found, rest = text.partition(label)
    return _decode(rest.partition(b"\n")[0]) if found else ""


def _decode(text: bytes) -> str:
    return text.decode(errors="replace").strip()


def _read_all(found: int, size: int) -> bytes:
    """Read a regular file through its path-only descriptor."""
    descriptor = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        parts = []
        while size > 0 and (part := os.read(descriptor, min(size, 1 << 20))):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)
