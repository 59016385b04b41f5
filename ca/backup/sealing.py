"""A backup's encryption: one key for each file, sealed to the recipient, and chunks under it. No I/O of its own.

The bytes are described in ``shared/model/wire/backup.py``. What is held is one chunk. What this does *not* verify: who
made a backup. Whoever knows the recipient can make one; so ``restore`` also checks that the authorities in it are a
chain, and that the CA's key-encryption key opens them.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from shared.model.errors import InputError
from shared.model.wire.backup import (
    CHUNK_BYTES,
    MAGIC,
    BackupHeader,
    frame_chunk,
    frame_opening,
    read_chunks,
    read_opening,
)

_SUITE = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)


class Sealer:
    """Encrypts what is written to it.

    Attributes:
        opening: the file's first bytes.
    """

    def __init__(self, header: BackupHeader) -> None:
        raw, key = msgspec.json.encode(header), secrets.token_bytes(32)
        recipient = X25519PublicKey.from_public_bytes(header.recipient)
        self.opening = frame_opening(raw, _SUITE.encrypt(key, recipient, MAGIC + raw))
        self._cipher = ChaCha20Poly1305(key)
        self._number = 0
        self._waiting = bytearray()

    def write(self, data: bytes) -> bytes:
        """Take data; return the chunks that are full by now. The last one stays until ``finish``."""
        self._waiting += data
        full = []
        while len(self._waiting) > CHUNK_BYTES:
            full.append(self._seal(bytes(self._waiting[:CHUNK_BYTES]), is_last=False))
            del self._waiting[:CHUNK_BYTES]
        return b"".join(full)

    def finish(self) -> bytes:
        """Return the last chunk."""
        return self._seal(bytes(self._waiting), is_last=True)

    def _seal(self, chunk: bytes, *, is_last: bool) -> bytes:
        nonce = make_nonce(self._number, is_last=is_last)
        self._number += 1
        return frame_chunk(self._cipher.encrypt(nonce, chunk, None), is_last=is_last)


class Opened:
    """A backup whose header was read and whose key was unsealed.

    Arguments:
        read: returns up to that many bytes of the file, fewer at its end only.
        find_key: returns the private key for a header: from a file, or by a passphrase.

    Raises:
        InputError: it isn't a backup, or another key opens it.
    """

    def __init__(self, read: Callable[[int], bytes], find_key: Callable[[BackupHeader], X25519PrivateKey]) -> None:
        raw, self.header, sealed = read_opening(read)
        private_key = find_key(self.header)
        try:
            key = _SUITE.decrypt(sealed, private_key, MAGIC + raw)
            self._cipher = ChaCha20Poly1305(key)
        except (InvalidTag, ValueError) as error:
            by = "passphrase" if self.header.passphrase is not None else "key"
            raise InputError(f"this {by} doesn't open the backup, or its beginning is damaged") from error
        self._read = read

    def read_all(self) -> Iterator[bytes]:
        """Yield the plaintext, chunk by chunk, each verified.

        Raises:
            InputError: a chunk is damaged, or the file is cut off.
        """
        for number, (sealed, is_last) in enumerate(read_chunks(self._read)):
            try:
                yield self._cipher.decrypt(make_nonce(number, is_last=is_last), sealed, None)
            except InvalidTag as error:
                raise InputError(
                    "the backup is damaged: a chunk doesn't verify", hint="copy it again, or take an earlier one"
                ) from error


def make_nonce(number: int, *, is_last: bool) -> bytes:
    """Return a chunk's nonce."""
    return number.to_bytes(11) + bytes([is_last])
