"""Reads from a peeked ServerHello whether the handshake rests on the secret that its client has offered.

Belongs here: parsing of bytes that a stranger sent, with bounds. Doesn't: sockets (``resumption.py``), what TLS makes
of these bytes. Pure.

Source: RFC 8446, sections 4.1.3, 4.2.11 and 5.1.
"""

from __future__ import annotations

import struct
from typing import Final

# A ServerHello with X25519's key share and a secret's number takes 133.
MAX_SERVER_HELLO_BYTES: Final = 256
_CONTENT_HANDSHAKE: Final = 22
_SERVER_HELLO: Final = 2
_EXTENSION_PRE_SHARED_KEY: Final = 41
# Content type, version, length; kind, the highest byte of its length, length; legacy_version, random.
_BEGINNING: Final = struct.Struct("!BBxHBBH2x32x")
_AT_MESSAGE: Final = 9
# cipher_suite, legacy_compression_method, and the extensions' length.
_CHOICES: Final = struct.Struct("!HBH")
_EXTENSION: Final = struct.Struct("!HH")


def takes_secret(data: bytes) -> bool:
    """Tell whether these bytes begin with a whole ServerHello that takes a secret; False for whatever else they are.

    What this does *not* verify: that the server has the secret. Without it nothing that follows can be decrypted.
    """
    try:
        kind, version, record_bytes, message, highest, message_bytes = _BEGINNING.unpack_from(data)
        end = _AT_MESSAGE + message_bytes
        if (kind, version, message, highest) != (_CONTENT_HANDSHAKE, 3, _SERVER_HELLO, 0):
            return False
        if end > min(len(data), 5 + record_bytes):
            return False
        offset = _BEGINNING.size
        offset += 1 + data[offset]  # legacy_session_id_echo
        _, _, extensions_bytes = _CHOICES.unpack_from(data, offset)
        offset += _CHOICES.size
        if offset + extensions_bytes != end:
            return False
        has_secret = False
        while offset < end:
            extension, size = _EXTENSION.unpack_from(data, offset)
            offset += _EXTENSION.size + size
            has_secret = has_secret or extension == _EXTENSION_PRE_SHARED_KEY
    except (IndexError, struct.error):
        return False
    return has_secret and offset == end
