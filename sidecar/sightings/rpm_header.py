"""Whether a package's header, as rpm's database keeps it, has a file; and the package's name and version. Pure.

Belongs here: the header's format. Doesn't: the database around it (``sqlite_file.py``). What the header says is
believed; no signature or digest in it is verified.

Nothing is made of a header but what is looked for: an array of a million empty names is counted, not listed.

Source: rpm-software-management.github.io/rpm/manual/format_header.html and tags.html; ``lib/header.c``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

MAX_HEADER_BYTES: Final = 8 * 1024 * 1024
MAX_LOOKS: Final = 100_000  # At files of one name, in all packages: a fifth of a second.
_INTRODUCTION: Final = struct.Struct(">II")  # How many entries, and how many bytes of data follow them.
_ENTRY: Final = struct.Struct(">IIII")  # Tag, type, place in the data, count.
_NAME, _VERSION, _RELEASE, _EPOCH = 1000, 1001, 1002, 1003
_STATES, _FOLDER_OF, _FILES, _FOLDERS = 1029, 1116, 1117, 1118
_CHAR, _INT32, _STRING, _STRINGS = 1, 4, 6, 8
_TYPES: Final = {
    _NAME: _STRING, _VERSION: _STRING, _RELEASE: _STRING, _EPOCH: _INT32,
    _STATES: _CHAR, _FOLDER_OF: _INT32, _FILES: _STRINGS, _FOLDERS: _STRINGS,
}  # fmt: skip
# rpm's file states: another package's file has replaced it; it wasn't installed; it is another architecture's.
_NOT_THERE: Final = frozenset((1, 2, 4))
_MAX_TEXT_BYTES: Final = 200


class RpmHeaderError(ValueError):
    """A header doesn't have the shape that rpm gives it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    """A header's data, and where in it the tags are that are asked for: place and count, by tag."""

    data: bytes
    places: dict[int, tuple[int, int]]

    def read_text(self, tag: int) -> str:
        """Return a text, or an empty one where there is none."""
        if tag not in self.places:
            return ""
        start, _ = self.places[tag]
        end = self.data.find(b"\0", start, start + _MAX_TEXT_BYTES + 1)
        if end < 0:
            raise RpmHeaderError("a text that has no end, or is too long")
        return self.data[start:end].decode(errors="replace")

    def read_number(self, tag: int, index: int) -> int:
        """Return a number of an array.

        Raises:
            RpmHeaderError: it isn't there.
        """
        start, count = self.places.get(tag, (0, 0))
        place = start + 4 * index
        if index >= count or place + 4 > len(self.data):
            raise RpmHeaderError("an array that is too short")
        return int.from_bytes(self.data[place : place + 4], "big")

    def find_text(self, tag: int, wanted: bytes) -> Iterator[int]:
        """Yield where in an array of texts this one is, by one pass over the data."""
        place, count = self.places.get(tag, (0, 0))
        index = 0
        while index < count:
            if self.data.startswith(wanted + b"\0", place):
                yield index
            before = self.data.find(b"\0" + wanted + b"\0", place)
            if before < 0:
                return
            index += self.data.count(b"\0", place, before + 1)
            place = before + 1

    def is_there(self, index: int) -> bool:
        """Tell whether a file of the package is what lies at its place, as far as rpm noted it."""
        start, count = self.places.get(_STATES, (0, 0))
        return not (index < count and start + index < len(self.data) and self.data[start + index] in _NOT_THERE)


class OwnerSearch:
    """A search for the package that has a file, in one header after another."""

    def __init__(self, folders: tuple[bytes, ...], name: bytes) -> None:
        """Say which file is meant.

        Arguments:
            folders: any of which the file may be in, each with its final slash.
            name: the file's, without a folder.
        """
        self._folders = folders
        self._name = name
        self._looks_left = MAX_LOOKS

    def find_in(self, header: bytes) -> str | None:
        """Return ``name version`` if the package has the file; versions as rpm has them, ``epoch:version-release``.

        Arguments:
            header: as in the database: without the magic number and the padding that files have.

        Raises:
            RpmHeaderError: the header can't be read, or too many files have that name. A header that doesn't contain it
                isn't looked at further.
        """
        if not self._name or b"\0" in self._name or self._name + b"\0" not in header:
            return None
        found = _parse(header)
        # rpm writes each folder once: of equal ones only the first counts, since thousands would only take memory.
        wanted = {next(found.find_text(_FOLDERS, folder), -1) for folder in self._folders}
        for index in found.find_text(_FILES, self._name):
            if self._looks_left <= 0:
                raise RpmHeaderError("too many files of one name")
            self._looks_left -= 1
            if found.read_number(_FOLDER_OF, index) in wanted and found.is_there(index):
                return _describe(found)
        return None


def _parse(header: bytes) -> _Header:
    if not _INTRODUCTION.size <= len(header) <= MAX_HEADER_BYTES:
        raise RpmHeaderError("a header that is too short or too long")
    entries, size = _INTRODUCTION.unpack_from(header)
    start = _INTRODUCTION.size + entries * _ENTRY.size
    if start + size != len(header):
        raise RpmHeaderError("a header of another length than it says")
    places: dict[int, tuple[int, int]] = {}
    for tag, kind, place, count in _ENTRY.iter_unpack(header[_INTRODUCTION.size : start]):
        if tag not in _TYPES:
            continue
        if kind != _TYPES[tag] or place >= size or tag in places:
            raise RpmHeaderError("a tag of another kind, outside the data, or twice")
        places[tag] = place, count
    return _Header(data=header[start:], places=places)


def _describe(header: _Header) -> str:
    name, version, release = (header.read_text(tag) for tag in (_NAME, _VERSION, _RELEASE))
    if not name:
        raise RpmHeaderError("a package without a name")
    epoch = f"{header.read_number(_EPOCH, 0)}:" if _EPOCH in header.places else ""
    return f"{name} {epoch}{version}-{release}"
