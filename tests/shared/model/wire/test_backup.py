"""The frame of a backup and its keys' texts (``shared.model.wire.backup``)."""

from __future__ import annotations

import io

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from shared.model.errors import InputError
from shared.model.wire.backup import (
    MAGIC,
    BackupHeader,
    PassphraseSalt,
    derive_secret,
    format_recipient,
    format_secret,
    frame_chunk,
    frame_opening,
    parse_recipient,
    parse_secret,
    read_chunks,
    read_opening,
)

KEY = X25519PrivateKey.from_private_bytes(bytes(range(32)))
HEADER = BackupHeader(recipient=bytes(32), passphrase=None, trust_domain="a.test", taken=1.0, ca_version="1")


def test_keys_have_texts_that_cannot_be_confused() -> None:
    public, secret = format_recipient(KEY.public_key()), format_secret(KEY)
    assert parse_recipient(public) == KEY.public_key()
    assert parse_secret(f"# a remark\n{secret}\n").private_bytes_raw() == KEY.private_bytes_raw()
    for read, wrong in ((parse_recipient, secret), (parse_secret, public), (parse_secret, ""), (parse_recipient, "é")):
        with pytest.raises(InputError, match="not a backup's"):
            read(wrong)


def test_a_passphrase_is_a_key_by_its_salt() -> None:
    salts = [PassphraseSalt(salt=bytes([n]) * 16, n=2) for n in range(2)]
    keys = {derive_secret("correct horse", salt).private_bytes_raw() for salt in salts}
    assert len(keys) == 2
    assert derive_secret("correct horse", salts[0]).private_bytes_raw() in keys
    with pytest.raises(InputError, match="empty"):
        derive_secret("", salts[0])


@pytest.mark.parametrize("n", [0, 3, 2**21, 2**40])
def test_a_file_cannot_ask_for_any_amount_of_memory(n: int) -> None:
    with pytest.raises(InputError):
        PassphraseSalt(salt=bytes(16), n=n)


def test_what_is_framed_is_read_again() -> None:
    chunks = frame_chunk(b"a" * 20, is_last=False) + frame_chunk(b"b" * 16, is_last=True)
    read = io.BytesIO(frame_opening(msgspec.json.encode(HEADER), b"key") + chunks).read
    assert read_opening(read)[1:] == (HEADER, b"key")
    assert list(read_chunks(read)) == [(b"a" * 20, False), (b"b" * 16, True)]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"touchmark backup 2\n",
        MAGIC,
        MAGIC + (1 << 30).to_bytes(4),
        frame_opening(b"{}", b"key"),
        frame_opening(msgspec.json.encode(HEADER), b"key"),
        frame_opening(msgspec.json.encode(HEADER), b"key") + frame_chunk(b"a" * 16, is_last=False),
        frame_opening(msgspec.json.encode(HEADER), b"key") + frame_chunk(b"a" * 16, is_last=True) + b"x",
        frame_opening(msgspec.json.encode(HEADER), b"key") + frame_chunk(b"a" * 70_000, is_last=True),
        frame_opening(msgspec.json.encode(HEADER), b"key") + frame_chunk(b"a" * 15, is_last=True),
    ],
)
def test_what_is_cut_off_or_strange_is_refused(data: bytes) -> None:
    read = io.BytesIO(data).read
    with pytest.raises(InputError):
        read_opening(read)
        list(read_chunks(read))
