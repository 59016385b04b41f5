"""Reads from a peeked ClientHello what has to be known before TLS begins: the server's name, and a secret's.

Belongs here: parsing of bytes that a stranger sent, with bounds. Doesn't: sockets (``handshake.py``). Pure.

Source: RFC 8446, sections 4.1.2, 4.2.11 and 5.1; RFC 6066, section 3.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from shared.model.errors import ProtocolError

MAX_CLIENT_HELLO_BYTES = 16 * 1024
_RECORD_HEADER = 5
_HANDSHAKE_HEADER = 4
_CONTENT_HANDSHAKE = 22
_CLIENT_HELLO = 1
_EXTENSION_SERVER_NAME = 0
_EXTENSION_PRE_SHARED_KEY = 41
_NAME_HOST = 0
# One that names a secret takes 0.3 KiB, and is computed on the event loop: what a peer may fill it up with isn't.
MAX_NAMING_BYTES = 1024
_END_OF_RANDOM = 2 + 32  # Behind legacy_version.
# A kind, and how many bytes follow.
_EXTENSION = struct.Struct("!HH")
_NAME = struct.Struct("!BH")
_read_number = struct.Struct("!H").unpack_from
_TRUNCATED = "the ClientHello is truncated inside a field"


@dataclass(frozen=True, slots=True, kw_only=True)
class NeedsMore:
    """The ClientHello isn't complete: at least ``total_bytes`` from the connection's start are needed."""

    total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientHello:
    """What a ClientHello asks for.

    Attributes:
        server_name: the host name of its SNI extension; empty when there is none.
        secret_name: the name of the first pre-shared key that it offers, of any length; empty when there is none, or
            this ClientHello is larger than one of ours that names one.
    """

    server_name: str = ""
    secret_name: bytes = b""


def parse_client_hello(data: bytes | memoryview) -> ClientHello | NeedsMore:
    """Read the beginning of a TLS connection.

    Arguments:
        data: the first bytes that the client sent, as many as have arrived.

    Raises:
        ProtocolError: they don't begin a TLS ClientHello of at most ``MAX_CLIENT_HELLO_BYTES``.

    What this does *not* verify: versions, cipher suites, key shares, nor that the client has the secret that it names.
    TLS itself does.
    """
    handshake = bytearray()
    offset = 0
    wanted = _HANDSHAKE_HEADER
    while len(handshake) < wanted:
        if len(data) < offset + _RECORD_HEADER:
            if len(data) > offset and data[offset] != _CONTENT_HANDSHAKE:
                raise ProtocolError("the connection doesn't begin with a TLS handshake")
            return NeedsMore(total_bytes=offset + _RECORD_HEADER)
        if data[offset] != _CONTENT_HANDSHAKE or data[offset + 1] != 3:
            raise ProtocolError("the connection doesn't begin with a TLS handshake")
        length = int.from_bytes(data[offset + 3 : offset + 5], "big")
        end = offset + _RECORD_HEADER + length
        if not length or end > MAX_CLIENT_HELLO_BYTES:
            raise ProtocolError("the ClientHello's record is empty or too long")
        if len(data) < end:
            return NeedsMore(total_bytes=end)
        handshake += data[offset + _RECORD_HEADER : end]
        offset = end
        if len(handshake) >= _HANDSHAKE_HEADER:
            if handshake[0] != _CLIENT_HELLO:
                raise ProtocolError("the handshake doesn't begin with a ClientHello")
            wanted = _HANDSHAKE_HEADER + int.from_bytes(handshake[1:4], "big")
            if wanted > MAX_CLIENT_HELLO_BYTES:
                raise ProtocolError("the ClientHello is too long")
    return _parse_body(bytes(handshake[_HANDSHAKE_HEADER:wanted]))


def parse_port_name(server_name: str) -> int | None:
    """Read the destination port from a tunnel's server name (``p5432``), or None when it is another name."""
    digits = server_name[1:]
    if not server_name.startswith("p") or not digits.isascii() or not digits.isdigit() or len(digits) > 5:
        return None
    port = int(digits)
    return port if 1 <= port <= 65535 and str(port) == digits else None


def format_port_name(port: int) -> str:
    """Write a destination port as a tunnel's server name."""
    return f"p{port}"


def _parse_body(body: bytes) -> ClientHello:
    try:
        offset = _END_OF_RANDOM + 1 + body[_END_OF_RANDOM]  # legacy_session_id
        offset += 2 + _read_number(body, offset)[0]  # cipher_suites
        offset += 1 + body[offset]  # legacy_compression_methods
        if offset == len(body):
            return ClientHello()
        start = offset + 2
        end = start + _read_number(body, offset)[0]
    except (IndexError, struct.error) as error:
        raise ProtocolError(_TRUNCATED) from error
    if end > len(body):
        raise ProtocolError(_TRUNCATED)
    server_name, secret_name = "", b""
    for kind, content in _split(body[start:end], _EXTENSION):
        if kind == _EXTENSION_SERVER_NAME and not server_name:
            server_name = _parse_server_name(content)
        elif kind == _EXTENSION_PRE_SHARED_KEY and not secret_name:
            secret_name = _parse_secret_name(content)
    return ClientHello(server_name=server_name, secret_name=secret_name if len(body) <= MAX_NAMING_BYTES else b"")


def _parse_server_name(content: bytes) -> str:
    if len(content) < 2 or (end := 2 + _read_number(content)[0]) > len(content):
        raise ProtocolError(_TRUNCATED)
    for kind, name in _split(content[2:end], _NAME):
        if kind == _NAME_HOST:
            try:
                return name.decode("ascii")
            except UnicodeDecodeError as error:
                raise ProtocolError("the server name isn't ASCII") from error
    return ""


def _parse_secret_name(content: bytes) -> bytes:
    """Read the first identity; what follows it is for TLS to read."""
    if len(content) < 4 or (end := 4 + _read_number(content, 2)[0]) > min(len(content), 2 + _read_number(content)[0]):
        raise ProtocolError(_TRUNCATED)
    return content[4:end]


def _split(data: bytes, header: struct.Struct) -> Iterator[tuple[int, bytes]]:
    """Yield what each header says and what follows it: a kind, and so many bytes."""
    offset, end = 0, len(data)
    while offset < end:
        start = offset + header.size
        if start > end:
            raise ProtocolError(_TRUNCATED)
        kind, size = header.unpack_from(data, offset)
        offset = start + size
        if offset > end:
            raise ProtocolError(_TRUNCATED)
        yield kind, data[start:offset]
