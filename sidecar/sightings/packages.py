"""Which package a program's file belongs to, by the databases of dpkg and apk in its own root file system. Does I/O.

Belongs here: those files' formats. Doesn't: which process is looked at (``surroundings.py``).

Whoever can write in the container can write these databases, and nothing is compared with the file's content: it is
evidence for people, beside a digest that is proven. Every file is opened below the root directory, never through a link
that leads out of it, and must be a regular one; what is read is bounded. rpm's database isn't read: it is SQLite, and a
database library on a file that the container's author has written is more than a sidecar with keys should run for it.

Sources: dpkg(1), dpkg-query(1) ``info/*.list``; distroless' ``status.d``; apk-tools' ``lib/apk/db/installed``.
"""

from __future__ import annotations

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
            descriptor = open_in_root(directory, os.fsencode(path), os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return b""
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size > min(MAX_FILE_BYTES, self.left):
                return b""
            self.left -= status.st_size
            return _read_all(descriptor, status.st_size)
        except OSError:
            return b""
        finally:
            os.close(descriptor)


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
        content = b"\n" + budget.read(root, database)
        for path in paths:
            folder, _, base = path.lstrip("/").rpartition("/")
            place = -1
            # ``F:`` names a folder of the package, ``R:`` a file in the folder named last.
            while (place := content.find(b"\nR:" + os.fsencode(base) + b"\n", place + 1)) >= 0:
                begin = max(content.rfind(b"\n\n", 0, place), 0)
                in_folder = content.rfind(b"\nF:", begin, place)
                if in_folder >= 0 and content.startswith(b"\nF:" + os.fsencode(folder) + b"\n", in_folder):
                    package = content[begin : in_folder + 1]
                    name, version = _read_field(package, b"\nP:"), _read_field(package, b"\nV:")
                    return " ".join(filter(None, (name, version, "(apk)"))) if name else ""
    return ""


def _read_field(text: bytes, label: bytes) -> str:
    _, found, rest = text.partition(label)
    return rest.partition(b"\n")[0].decode(errors="replace").strip() if found else ""


def _read_all(descriptor: int, size: int) -> bytes:
    parts = []
    while size > 0 and (part := os.read(descriptor, min(size, 1 << 20))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
