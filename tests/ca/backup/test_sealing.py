"""A backup's encryption (``ca.backup.sealing``): who has the key reads exactly what was written, or an error."""

from __future__ import annotations

import io

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from ca.backup.sealing import Opened, Sealer
from shared.model.errors import InputError
from shared.model.wire.backup import CHUNK_BYTES, read_opening
from tests.ca.backup.backups import KEY, make_header, open_backup


def seal(*parts: bytes) -> bytes:
    sealer = Sealer(make_header())
    return sealer.opening + b"".join(sealer.write(part) for part in parts) + sealer.finish()


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_what_was_written_is_read(size: int) -> None:
    data = bytes(size)
    assert b"".join(open_backup(seal(data[: size // 3], data[size // 3 :])).read_all()) == data


def test_another_key_opens_nothing() -> None:
    with pytest.raises(InputError, match="doesn't open"):
        open_backup(seal(b"secret"), X25519PrivateKey.generate())


def test_the_secret_is_in_no_byte_of_it() -> None:
    assert b"secret" not in seal(b"secret" * 100)


def test_chunks_cannot_be_left_out_repeated_moved_or_cut_off() -> None:
    file = seal(bytes(3 * CHUNK_BYTES) + b"end")
    reader = io.BytesIO(file)
    read_opening(reader.read)
    start, size = reader.tell(), CHUNK_BYTES + 20
    opening, chunks = file[:start], [file[start + n * size : start + (n + 1) * size] for n in range(4)]
    assert b"".join(chunks) == file[start:]
    last_marked = bytes([chunks[2][0] | 0x80]) + chunks[2][1:]
    for changed in (
        [chunks[0], chunks[2], chunks[3]],
        [chunks[0], chunks[0], *chunks[1:]],
        [chunks[1], chunks[0], *chunks[2:]],
        chunks[:3],
        [*chunks[:2], last_marked],
    ):
        with pytest.raises(InputError):
            list(Opened(io.BytesIO(opening + b"".join(changed)).read, lambda header: KEY).read_all())


def test_a_header_that_was_changed_is_noticed() -> None:
    file = seal(b"x").replace(b"touchmark.local", b"touchmark.lokal")
    with pytest.raises(InputError, match="doesn't open"):
        open_backup(file)
