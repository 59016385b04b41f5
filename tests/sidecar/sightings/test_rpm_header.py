"""A header of rpm's database: whose file it is, and that any bytes are an answer or an error, in little memory."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.sightings import rpm_header
from sidecar.sightings.rpm_header import MAX_HEADER_BYTES, OwnerSearch, RpmHeaderError

Entry = tuple[int, int, bytes, int]  # Tag, type, data, count.


def make_header(entries: Sequence[Entry]) -> bytes:
    index, data = b"", b""
    for tag, kind, value, count in entries:
        data += b"\0" * (-len(data) % 4 if kind == 4 else 0)
        index += struct.pack(">IIII", tag, kind, len(data), count)
        data += value
    return struct.pack(">II", len(entries), len(data)) + index + data


def describe(
    files: Sequence[tuple[bytes, bytes]], *, epoch: int | None = None, states: bytes = b"", name: bytes = b"curl"
) -> list[Entry]:
    """Return a package's entries in the order of tags, as rpm writes them, with these folders and names of files."""
    folders = list(dict.fromkeys(folder for folder, _ in files))
    entries: list[Entry] = [(1000, 6, name + b"\0", 1), (1001, 6, b"8.5\0", 1), (1002, 6, b"3.el9\0", 1)]
    if epoch is not None:
        entries.append((1003, 4, struct.pack(">I", epoch), 1))
    if states:
        entries.append((1029, 1, states, len(states)))
    numbers = struct.pack(f">{len(files)}I", *(folders.index(folder) for folder, _ in files))
    entries.append((1116, 4, numbers, len(files)))
    entries.append((1117, 8, b"".join(name + b"\0" for _, name in files), len(files)))
    entries.append((1118, 8, b"".join(folder + b"\0" for folder in folders), len(folders)))
    return entries


FILES = [(b"/usr/share/doc/", b"README"), (b"/usr/bin/", b"curl"), (b"/usr/bin/", b"curl2"), (b"/etc/", b"curl")]


def find(header: bytes, path: bytes) -> str | None:
    folder, _, name = path.rpartition(b"/")
    return OwnerSearch((folder + b"/",), name).find_in(header)


def test_the_package_has_its_files_and_no_others() -> None:
    header = make_header(describe(FILES))
    for folder, name in FILES:
        assert find(header, folder + name) == "curl 8.5-3.el9"
    for path in (b"/usr/bin/README", b"/usr/bin/url", b"/usr/bin/curl3", b"/bin/curl", b"/etc/curl2", b"/usr/bin/"):
        assert find(header, path) is None


def test_the_first_file_is_found_behind_any_byte() -> None:
    """What precedes the first name is the last number of a folder, which ends with any byte, not with zero."""
    files = [(b"/a/", b"first"), (b"/b/", b"last")]
    assert find(make_header(describe(files)), b"/a/first") == "curl 8.5-3.el9"


def test_the_epoch_is_part_of_the_version() -> None:
    assert find(make_header(describe(FILES, epoch=2)), b"/etc/curl") == "curl 2:8.5-3.el9"


def test_a_file_that_another_packages_has_replaced_isnt_the_packages() -> None:
    """Nor one that was never installed, or is of another architecture; unlike one on a shared file system."""
    header = make_header(describe(FILES, states=b"\x01\x00\x02\x03"))
    assert find(header, b"/usr/share/doc/README") is None
    assert find(header, b"/usr/bin/curl") == find(header, b"/etc/curl") == "curl 8.5-3.el9"
    assert find(header, b"/usr/bin/curl2") is None


NAMES = st.binary(min_size=1, max_size=6).filter(lambda name: b"\0" not in name)


@given(
    files=st.lists(st.tuples(st.sampled_from([b"/", b"/a/", b"/b/c/"]), NAMES), min_size=1, max_size=20),
    folder=st.sampled_from([b"/", b"/a/", b"/b/c/", b"/d/"]),
    name=NAMES,
)
def test_exactly_what_is_listed_is_found(files: list[tuple[bytes, bytes]], folder: bytes, name: bytes) -> None:
    header = make_header(describe(files))
    assert all(OwnerSearch((each[0],), each[1]).find_in(header) for each in files)
    assert (OwnerSearch((folder,), name).find_in(header) is not None) is ((folder, name) in files)


@pytest.mark.parametrize(
    "header",
    [
        make_header(describe(FILES)) + b"\0",
        make_header(describe(FILES))[:-1],
        struct.pack(">II", 2**28, 0) + b"curl\0",
        make_header([*describe(FILES), (1117, 8, b"curl\0", 1)]),
        make_header([(tag, 4 if tag == 1117 else kind, data, count) for tag, kind, data, count in describe(FILES)]),
        make_header([each for each in describe(FILES) if each[0] != 1116]),
        make_header([each for each in describe(FILES) if each[0] != 1000]),
        make_header(describe(FILES, name=b"n" * 300)),
        make_header([(tag, kind, data, 1 if tag == 1116 else count) for tag, kind, data, count in describe(FILES)]),
        b"curl\0" + bytes(MAX_HEADER_BYTES),
    ],
    ids=["longer", "shorter", "entries", "twice", "kind", "no folders", "no name", "long name", "few", "large"],
)
def test_a_header_that_rpm_wouldnt_write_is_an_error(header: bytes) -> None:
    with pytest.raises(RpmHeaderError):
        find(header, b"/usr/bin/curl")


@given(header=st.binary(max_size=200).flatmap(lambda data: st.sampled_from([data, data + b"curl\0", b"curl\0" + data])))
def test_any_bytes_are_an_answer_or_an_error(header: bytes) -> None:
    check_answer(header)


@given(changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_damaged_header_is_an_answer_or_an_error(changes: list[tuple[int, int]]) -> None:
    header = bytearray(make_header(describe(FILES, epoch=1, states=bytes(4))))
    for place, byte in changes:
        header[place % len(header)] = byte
    check_answer(bytes(header))


def check_answer(header: bytes) -> None:
    try:
        found = find(header, b"/usr/bin/curl")
        assert found is None or " " in found
    except RpmHeaderError as error:
        assert str(error)


@pytest.mark.parametrize("text", [b"\0", b"curl\0", b"/usr/bin/\0"])
def test_arrays_of_texts_take_no_more_memory_than_their_bytes(text: bytes) -> None:
    """Each would take 40 bytes and more as an object."""
    count = 100_000 // len(text) + 1
    texts = text * (count - 1) + b"curl\0"
    entries = [
        (tag, kind, texts if tag in (1117, 1118) else data, count if tag in (1116, 1117, 1118) else each)
        for tag, kind, data, each in describe(FILES)
        if tag != 1116
    ]
    header = make_header([*entries, (1116, 4, bytes(4 * count), count)])
    tracemalloc.start()
    try:
        find(header, b"/usr/bin/curl")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.2 * len(header) + 200_000


def test_files_of_one_name_are_looked_at_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """In all headers together: a look takes microseconds, and 128 MiB have room for 25 million such names."""
    header = make_header(describe([(b"/a/", b"curl")] * 30))
    monkeypatch.setattr(rpm_header, "MAX_LOOKS", 50)
    search = OwnerSearch((b"/b/",), b"curl")
    assert search.find_in(header) is None
    with pytest.raises(RpmHeaderError, match="too many files"):
        search.find_in(header)
