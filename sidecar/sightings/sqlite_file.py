"""The rows of one table of an SQLite database, read from its file as it lies there. Pure: reading it is the caller's.

Belongs here: pages, cells and records of a table's B-tree. Doesn't: SQL, indexes, the write-ahead log, or what
rows mean.

It exists so that no database library runs on a file that a container's author has written: whatever the bytes are,
they are only compared, copied and counted here. It doesn't verify that the file is sound beyond what it reads.

Source: sqlite.org/fileformat2.html, sections 1.2 to 1.6 and 2.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

MAX_PAGES: Final = 65_536  # Read in all, one that is read again included: a circle of pages ends here.
MAX_ROWS: Final = 32_768  # In all: a page may name one cell thousands of times.
MAX_BYTES: Final = 128 * 1024 * 1024  # Of all rows together, for the same reason.
MAX_SCHEMA_ROW_BYTES: Final = 65_536
_MAX_DEPTH: Final = 20
_HEADER_BYTES: Final = 100
_MAGIC: Final = b"SQLite format 3\0"
_INTERIOR: Final = 0x05
_LEAF: Final = 0x0D
_UTF_8: Final = 1
# The sizes of serial types 0 to 9: NULL, integers, a float, and the integers 0 and 1, which take no bytes.
_SIZES: Final = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0)
_FIRST_INTEGER, _LAST_INTEGER = 1, 6


class SqliteFileError(ValueError):
    """The file isn't an SQLite database, or not one that is read here."""


class SqliteFile:
    """A database's file. It keeps no page: what it reads at once is a page for each level of a tree, and one row."""

    def __init__(self, read: Callable[[int, int], bytes]) -> None:
        """Read the file's header.

        Arguments:
            read: returns so many bytes (the second) from an offset (the first); fewer at the file's end.

        Raises:
            SqliteFileError: it isn't such a file.
        """
        self._read = read
        self._pages_left = MAX_PAGES
        self._rows_left = MAX_ROWS
        self._bytes_left = MAX_BYTES
        header = read(0, _HEADER_BYTES)
        if len(header) != _HEADER_BYTES or not header.startswith(_MAGIC):
            raise SqliteFileError("not an SQLite database")
        size = int.from_bytes(header[16:18], "big")
        self._page_bytes = 65_536 if size == 1 else size
        self._usable_bytes = self._page_bytes - header[20]
        if self._page_bytes < 512 or self._page_bytes & (self._page_bytes - 1) or self._usable_bytes < 480:
            raise SqliteFileError("a page size that SQLite doesn't have")
        if header[19] not in (1, 2) or int.from_bytes(header[56:60], "big") != _UTF_8:
            raise SqliteFileError("a version or a text encoding that isn't read here")

    def list_rows(self, table: str, *, columns: int, max_row_bytes: int) -> Iterator[tuple[bytes | int | None, ...]]:
        """Yield a table's rows in the order of their IDs: text and BLOBs as bytes; rows that are larger are left out.

        Arguments:
            columns: how many of the first columns are read.

        Raises:
            SqliteFileError: there is no such table, or what is read doesn't follow the format or goes beyond a bound.
        """
        for values in self._list_records(1, columns=4, max_bytes=MAX_SCHEMA_ROW_BYTES):
            kind, name, _, root = values
            if kind == b"table" and name == table.encode() and isinstance(root, int):
                yield from self._list_records(root, columns=columns, max_bytes=max_row_bytes)
                return
        raise SqliteFileError("no such table")

    def _list_records(self, root: int, *, columns: int, max_bytes: int) -> Iterator[tuple[bytes | int | None, ...]]:
        for page, offset in self._list_cells(root, 0):
            size, offset = _read_varint(page, offset)
            _, offset = _read_varint(page, offset)
            self._rows_left -= 1
            if size > max_bytes and self._rows_left >= 0:
                continue
            self._bytes_left -= size
            if self._rows_left < 0 or self._bytes_left < 0:
                raise SqliteFileError("too many rows, or too large ones")
            yield _read_record(self._read_payload(page, offset, size), columns)

    def _list_cells(self, number: int, depth: int) -> Iterator[tuple[bytes, int]]:
        """Yield the leaf pages below a page, with the place of each cell in them."""
        if depth > _MAX_DEPTH:
            raise SqliteFileError("a tree that is too deep")
        page = self._read_page(number)
        start = _HEADER_BYTES if number == 1 else 0
        kind, count = page[start], _read_number(page, start + 3, 2)
        if kind == _LEAF:
            for index in range(count):
                yield page, _read_number(page, start + 8 + 2 * index, 2)
        elif kind == _INTERIOR:
            for index in range(count):
                cell = _read_number(page, start + 12 + 2 * index, 2)
                yield from self._list_cells(_read_number(page, cell, 4), depth + 1)
            yield from self._list_cells(_read_number(page, start + 8, 4), depth + 1)
        else:
            raise SqliteFileError("not a page of a table")

    def _read_payload(self, page: bytes, offset: int, size: int) -> bytes:
        usable = self._usable_bytes
        if size <= usable - 35:
            return _cut(page, offset, size)
        least = (usable - 12) * 32 // 255 - 23
        here = least + (size - least) % (usable - 4)
        if here > usable - 35:
            here = least
        parts = [_cut(page, offset, here)]
        following = _read_number(page, offset + here, 4)
        left = size - here
        while left > 0:
            overflow = self._read_page(following)
            following = _read_number(overflow, 0, 4)
            parts.append(_cut(overflow, 4, min(left, usable - 4)))
            left -= len(parts[-1])
        return b"".join(parts)

    def _read_page(self, number: int) -> bytes:
        if self._pages_left <= 0:
            raise SqliteFileError("too many pages")
        self._pages_left -= 1
        page = self._read((number - 1) * self._page_bytes, self._page_bytes) if number > 0 else b""
        if len(page) != self._page_bytes:
            raise SqliteFileError("a page that isn't there")
        return page


def _read_record(payload: bytes, columns: int) -> tuple[bytes | int | None, ...]:
    end, offset = _read_varint(payload, 0)
    place = end
    values: list[bytes | int | None] = []
    while len(values) < columns:
        if offset >= end:
            raise SqliteFileError("a row without all its columns")
        kind, offset = _read_varint(payload, offset)
        size = _SIZES[kind] if kind < len(_SIZES) else (kind - 12) // 2
        if size < 0:
            raise SqliteFileError("a kind of value that SQLite doesn't store")
        value = _cut(payload, place, size)
        place += size
        if kind >= len(_SIZES):
            values.append(value)
        elif _FIRST_INTEGER <= kind <= _LAST_INTEGER:
            values.append(int.from_bytes(value, "big", signed=True))
        else:
            values.append({8: 0, 9: 1}.get(kind))  # A float is nothing that is asked for here.
    return tuple(values)


def _read_varint(data: bytes, offset: int) -> tuple[int, int]:
    """Return a number of up to nine bytes, and where it ends."""
    value = 0
    for index, byte in enumerate(_cut(data, offset, min(9, len(data) - offset))):
        if index == 8:
            return (value << 8) | byte, offset + 9
        value = (value << 7) | (byte & 0x7F)
        if byte < 0x80:
            return value, offset + index + 1
    raise SqliteFileError("a number that has no end")


def _read_number(data: bytes, offset: int, size: int) -> int:
    return int.from_bytes(_cut(data, offset, size), "big")


def _cut(data: bytes, offset: int, size: int) -> bytes:
    if offset < 0 or size < 0 or offset + size > len(data):
        raise SqliteFileError("what is said to be there isn't")
    return data[offset : offset + size]
