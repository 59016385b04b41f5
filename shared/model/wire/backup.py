"""A backup's file as bytes, and the keys as texts: what ``touchmark`` and the CA both read. Pure.

| Part | Bytes |
| --- | --- |
| magic | ``touchmark backup 1`` and a line feed |
| header | length (u32, big endian), then ``BackupHeader`` as JSON |
| key | length (u32), then the file's key, sealed by HPKE: info is magic and header, without the length |
| chunks | length (u32; its highest bit marks the last one), then ChaCha20-Poly1305 of at most 64 KiB |

HPKE is RFC 9180 in its base mode: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305. A chunk's nonce is its
number (11 bytes) and 1 for the last one, else 0: chunks that are missing, repeated, moved or cut off are noticed.
Source: Hoang, Reyhanitabar, Rogaway, Vizár, "Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance"
(STREAM), as age and Tink use it.

Belongs here: the frame, the header, the texts of keys, a passphrase's key. Doesn't: encryption, or what the chunks hold
(``ca/backup``).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from shared.model.errors import InputError

BACKUP_PATH: Final = "/v1/backup"
MAGIC: Final = b"touchmark backup 1\n"
CHUNK_BYTES: Final = 65_536
TAG_BYTES: Final = 16
_LAST: Final = 1 << 31
_MAX_HEADER_BYTES: Final = 16_384
_MAX_KEY_BYTES: Final = 256
_RECIPIENT: Final = "touchmark-backup-recipient-"
_SECRET: Final = "touchmark-backup-secret-key-"
# 128 MiB and about half a second for each guess. A file that asks for more than eight times as much is refused.
SCRYPT_N: Final = 2**17
_MAX_SCRYPT_N: Final = 2**20


class PassphraseSalt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a passphrase becomes the key: scrypt (RFC 7914) with r = 8 and p = 1, to an X25519 private key."""

    salt: bytes
    n: int = SCRYPT_N

    def __post_init__(self) -> None:
        if len(self.salt) != 16 or not 2 <= self.n <= _MAX_SCRYPT_N or self.n & (self.n - 1):
            raise InputError("a backup's passphrase parameters can't be")


class BackupHeader(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What anybody may read of a backup.

    Attributes:
        recipient: the X25519 public key that it is encrypted to.
        passphrase: how to get its private key from the passphrase; None: it is in a key file.
        taken: when, in seconds since the epoch.
    """

    recipient: bytes
    passphrase: PassphraseSalt | None
    trust_domain: str
    taken: float
    ca_version: str


class BackupRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whom the CA encrypts a backup to, and whether the log of decisions is in it."""

    recipient: str
    passphrase: PassphraseSalt | None = None
    decisions: bool = True


def format_recipient(key: X25519PublicKey) -> str:
    """Write a recipient's text."""
    return _RECIPIENT + _encode(key.public_bytes_raw())


def parse_recipient(text: str) -> X25519PublicKey:
    """Read a recipient's text. Raises ``InputError`` when it is something else."""
    return X25519PublicKey.from_public_bytes(_decode(text, _RECIPIENT, "a backup's recipient"))


def format_secret(key: X25519PrivateKey) -> str:
    """Write a private key's text."""
    return _SECRET + _encode(key.private_bytes_raw())


def parse_secret(text: str) -> X25519PrivateKey:
    """Read a private key's text; lines that begin with ``#`` are remarks. Raises ``InputError`` otherwise."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return X25519PrivateKey.from_private_bytes(_decode("".join(lines), _SECRET, "a backup's secret key"))


def derive_secret(passphrase: str, salt: PassphraseSalt) -> X25519PrivateKey:
    """Return a passphrase's private key. Takes half a second and 128 MiB."""
    if not passphrase:
        raise InputError("the passphrase is empty")
    return X25519PrivateKey.from_private_bytes(
        Scrypt(salt=salt.salt, length=32, n=salt.n, r=8, p=1).derive(passphrase.encode())
    )


def frame_opening(header: bytes, sealed_key: bytes) -> bytes:
    """Return a file's first bytes."""
    return MAGIC + len(header).to_bytes(4) + header + len(sealed_key).to_bytes(4) + sealed_key


def frame_chunk(sealed: bytes, *, is_last: bool) -> bytes:
    """Return a chunk with its length."""
    return (len(sealed) | (_LAST if is_last else 0)).to_bytes(4) + sealed


def read_opening(read: Callable[[int], bytes]) -> tuple[bytes, BackupHeader, bytes]:
    """Read a file's first bytes; return the header's bytes, the header, and the sealed key.

    Arguments:
        read: returns up to that many bytes; fewer at the end only.

    Raises:
        InputError: this is no backup, one of a later format, or its beginning is damaged.
    """
    magic = read(len(MAGIC))
    if magic != MAGIC:
        if magic.startswith(MAGIC[:17]):
            raise InputError("this backup has a later format", hint="use the version of touchmark that made it")
        raise InputError("this isn't a backup of Touchmark")
    raw = _read_part(read, _MAX_HEADER_BYTES)
    try:
        header = msgspec.json.decode(raw, type=BackupHeader)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError("the backup's header is damaged") from error
    return raw, header, _read_part(read, _MAX_KEY_BYTES)


def read_chunks(read: Callable[[int], bytes]) -> Iterator[tuple[bytes, bool]]:
    """Yield each sealed chunk, and whether it is the last one; nothing may follow it.

    What this does *not* verify: that the chunks are genuine. Without the key nobody can.

    Raises:
        InputError: the file is cut off, or has something behind its end.
    """
    while True:
        head = int.from_bytes(_read_exactly(read, 4))
        size, is_last = head & ~_LAST, bool(head & _LAST)
        if not TAG_BYTES <= size <= CHUNK_BYTES + TAG_BYTES:
            raise InputError("the backup is damaged: a chunk's length can't be")
        yield _read_exactly(read, size), is_last
        if is_last:
            break
    if read(1):
        raise InputError("the backup is damaged: something stands behind its end")


def _read_part(read: Callable[[int], bytes], limit: int) -> bytes:
    size = int.from_bytes(_read_exactly(read, 4))
    if size > limit:
        raise InputError("the backup's beginning is damaged")
    return _read_exactly(read, size)


def _read_exactly(read: Callable[[int], bytes], size: int) -> bytes:
    data = read(size)
    if len(data) != size:
        raise InputError("the backup is cut off", hint="copy it again, or take an earlier one")
    return data


def _encode(key: bytes) -> str:
    return base64.urlsafe_b64encode(key).decode().rstrip("=")


def _decode(text: str, prefix: str, what: str) -> bytes:
    text = text.strip()
    try:
        key = base64.b64decode(text.removeprefix(prefix) + "=", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"not {what}", hint=f"it begins with {prefix}") from error
    if not text.startswith(prefix) or len(key) != 32:
        raise InputError(f"not {what}", hint=f"it begins with {prefix}")
    return key
