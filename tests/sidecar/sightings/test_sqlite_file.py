"""An SQLite file's rows: what SQLite stored is read, and any other bytes end in an error, within the bounds."""

from __future__ import annotations

import sqlite3
import tracemalloc
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.sightings import sqlite_file
from sidecar.sightings.sqlite_file import SqliteFile, SqliteFileError

ROWS = st.lists(
    st.one_of(st.binary(max_size=80), st.integers(400, 9_000).map(lambda size: b"\x07" * size)), max_size=40
)
PAGE_BYTES = st.sampled_from([512, 1024, 4096, 65_536])


def store(rows: list[bytes], *, page_bytes: int = 4096) -> bytes:
    """Return SQLite's own file with these BLOBs as rows 1 and following."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(f"PRAGMA page_size = {page_bytes}")
        connection.execute("CREATE TABLE other (text TEXT)")
        connection.execute("CREATE TABLE 'Packages' (hnum INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB NOT NULL)")
        connection.executemany("INSERT INTO Packages (blob) VALUES (?)", [(row,) for row in rows])
        connection.commit()
        return connection.serialize()


def list_rows(data: bytes, *, max_row_bytes: int = 10_000) -> Iterator[tuple[bytes | int | None, ...]]:
    def read(offset: int, size: int) -> bytes:
        return data[offset : offset + size]

    return SqliteFile(read).list_rows("Packages", columns=2, max_row_bytes=max_row_bytes)


def test_every_size_of_row_is_read_as_it_was_stored() -> None:
    """Around the sizes at which a row's end goes to pages of its own, and at which these become two."""
    for page_bytes in (512, 4096):
        sizes = [at + by for at in (page_bytes // 8, page_bytes, 2 * page_bytes) for by in range(-60, 20)]
        rows = [bytes([index % 251]) * size for index, size in enumerate(sizes)]
        assert [row for _, row in list_rows(store(rows, page_bytes=page_bytes))] == rows


@given(rows=ROWS, page_bytes=PAGE_BYTES)
def test_what_sqlite_stored_is_read(rows: list[bytes], page_bytes: int) -> None:
    assert [row for _, row in list_rows(store(rows, page_bytes=page_bytes))] == rows


def test_numbers_texts_and_nothing_are_told_apart() -> None:
    values = [None, 0, 1, -1, 127, -129, 2**23, -(2**31), 2**47, -(2**63), b"blob", "text", 1.5]
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE Packages (number, value)")
        connection.executemany("INSERT INTO Packages VALUES (7, ?)", [(value,) for value in values])
        connection.commit()
        data = connection.serialize()
    expected = [*values[:-2], b"text", None]
    assert list(list_rows(data)) == [(7, value) for value in expected]


def test_larger_rows_are_left_out() -> None:
    data = store([b"a" * 100, b"b" * 9_000, b"c" * 100])
    assert [row for _, row in list_rows(data, max_row_bytes=8_000)] == [b"a" * 100, b"c" * 100]


@given(data=st.one_of(st.binary(max_size=300), st.binary(max_size=1_500).map(lambda rest: store([])[:100] + rest)))
def test_any_bytes_are_rows_or_an_error(data: bytes) -> None:
    try:
        assert all(len(row) == 2 for row in list_rows(data))
    except SqliteFileError as error:
        assert str(error)


@given(changes=st.lists(st.tuples(st.integers(0, 8 * 512 - 1), st.integers(0, 255)), min_size=1, max_size=30))
def test_a_damaged_database_is_rows_or_an_error(changes: list[tuple[int, int]]) -> None:
    data = bytearray(store([b"a" * size for size in (10, 2_000, 30, 40)], page_bytes=512))
    for place, byte in changes:
        data[place % len(data)] = byte
    try:
        for row in list_rows(bytes(data)):
            assert isinstance(row[1], bytes | int | None)
    except SqliteFileError as error:
        assert str(error)


def put(data: bytes, offset: int, new: bytes) -> bytes:
    return data[:offset] + new + data[offset + len(new) :]


def find_root(data: bytes) -> int:
    """Return where the page is at which the table begins."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.deserialize(data)
        (number,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'Packages'").fetchone()
    return (int(number) - 1) * 512


def test_a_circle_of_pages_ends() -> None:
    data = store([b"a" * 300] * 9, page_bytes=512)
    root = find_root(data)
    assert data[root] == 5, "the table's first page leads to others"
    circle = put(data, root + 8, (root // 512 + 1).to_bytes(4, "big"))
    with pytest.raises(SqliteFileError, match="too deep"):
        list(list_rows(circle))


def test_a_circle_in_a_rows_pages_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row can be made of one page that follows itself: it is bounded as any row is, and all together."""
    data = store([b"a" * 3_000], page_bytes=512)
    pages = [index for index in range(0, len(data), 512) if data[index + 4 : index + 512] == b"a" * 508]
    circle = put(data, pages[0], (pages[0] // 512 + 1).to_bytes(4, "big"))
    assert [len(row) for _, row in list_rows(circle) if isinstance(row, bytes)] == [3_000]
    monkeypatch.setattr(sqlite_file, "MAX_PAGES", 5)
    with pytest.raises(SqliteFileError, match="too many pages"):
        list(list_rows(circle))


def test_one_cell_that_is_named_again_and_again_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = store([b"a"] * 60, page_bytes=512)
    root = find_root(data)
    monkeypatch.setattr(sqlite_file, "MAX_ROWS", 50)
    with pytest.raises(SqliteFileError, match="too many rows"):
        list(list_rows(put(data, root + 8, data[root + 8 : root + 10] * 40)))
    monkeypatch.setattr(sqlite_file, "MAX_ROWS", 100)
    monkeypatch.setattr(sqlite_file, "MAX_BYTES", 300)
    with pytest.raises(SqliteFileError, match="too large"):
        list(list_rows(data))


def test_memory_is_that_of_a_row_and_not_of_what_the_file_says() -> None:
    """3 MB are read in the space of a few pages and a row."""
    data = store([b"a" * 9_000] * 300)
    tracemalloc.start()
    try:
        assert sum(1 for _ in list_rows(data)) == 300
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 300_000


@pytest.mark.parametrize(
    ("offset", "new"),
    [(0, b"SQLite format 4\0"), (16, b"\x03\x00"), (16, b"\x00\x80"), (19, b"\x03"), (20, b"\x40"), (56, b"\0\0\0\2")],
    ids=["magic", "no power of two", "too small", "version", "reserved", "UTF-16"],
)
def test_another_kind_of_file_is_refused(offset: int, new: bytes) -> None:
    with pytest.raises(SqliteFileError):
        list(list_rows(put(store([b"a"], page_bytes=512), offset, new)))
