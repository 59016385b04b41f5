"""Reads and writes TLS records of an established connection without the copies that pyOpenSSL's methods make.

Belongs here: the two calls that move every byte. Doesn't: what is read and written (``sidecar.tunnel``).
``Connection.recv_into`` reads into a buffer of its own, made for each call, and copies; ``send`` asks after every
success what went wrong. Here the same functions of the library are called, and pyOpenSSL is asked on failure only,
so that its exceptions stay what they are.
"""

from __future__ import annotations

from typing import Any, Final

from OpenSSL import SSL
from OpenSSL._util import ffi as _ffi
from OpenSSL._util import lib as _lib

_from_buffer: Final = _ffi.from_buffer
_read: Final = _lib.SSL_read
_write: Final = _lib.SSL_write


class Records:
    """One established TLS connection's records.

    Arguments:
        tls: after its handshake; kept alive by this object.

    Attributes:
        address: of OpenSSL's object, for the compiled loop; valid as long as this object.
    """

    __slots__ = ("_ssl", "_tls", "address")

    def __init__(self, tls: SSL.Connection) -> None:
        self._tls: Any = tls
        self._ssl = self._tls._ssl
        self.address = int(_ffi.cast("uintptr_t", self._ssl))

    def receive(self, buffer: Buffer, offset: int, most: int) -> int:
        """Read at most ``most`` bytes of one record to ``buffer``, from ``offset`` on; return how many.

        Raises:
            SSL.WantReadError: nothing is there yet.
            SSL.Error: the peer closed, or the connection broke.
        """
        if offset < 0 or most <= 0 or offset + most > buffer.size:
            raise ValueError(f"{most} bytes at {offset} don't fit into {buffer.size}")
        count: int = _read(self._ssl, buffer.address + offset, most)
        if count <= 0:
            self._tls._raise_ssl_error(self._ssl, count)
            raise SSL.Error(f"SSL_read returned {count} and no error")
        return count

    def send(self, data: bytes | memoryview) -> int:
        """Write one record; return how many bytes of ``data`` it holds.

        That is all of at most 16 KiB, but less where the peer has asked for shorter records (RFC 6066, section 4:
        max_fragment_length). The caller writes the rest.

        Raises:
            SSL.WantWriteError: not now; the same bytes must be given again.
            SSL.Error: the connection broke.
        """
        count: int = _write(self._ssl, _from_buffer(data), len(data))
        if count <= 0:
            self._tls._raise_ssl_error(self._ssl, count)
            raise SSL.Error(f"SSL_write returned {count} and no error")
        return count

    def explain(self, result: int, code: int) -> SSL.Error:
        """Return the error of a call that the compiled loop made, as pyOpenSSL tells it; its queue is empty then.

        Arguments:
            result: what ``SSL_read`` or ``SSL_write`` returned, in this thread, as its last call of OpenSSL.
            code: errno after it.
        """
        _ffi.errno = code
        try:
            self._tls._raise_ssl_error(self._ssl, result)
        except SSL.Error as error:
            return error
        return SSL.Error(f"OpenSSL returned {result} and no error")


def name_error(queued: int) -> SSL.Error:
    """Return an error of OpenSSL's queue that another thread has taken out of it, as pyOpenSSL tells it."""
    texts = (_lib.ERR_lib_error_string(queued), _ffi.NULL, _lib.ERR_reason_error_string(queued))
    return SSL.Error(
        [tuple("" if text == _ffi.NULL else _ffi.string(text).decode("utf-8", "replace") for text in texts)]
    )


class Buffer:
    """A buffer that OpenSSL reads into: its bytes, and where they are.

    Attributes:
        view: of all its bytes.
        address: of the first, as OpenSSL's functions take it.
    """

    __slots__ = ("address", "size", "view")

    def __init__(self, size: int) -> None:
        self.size = size
        self.view = memoryview(bytearray(size))
        self.address: Any = _from_buffer("char[]", self.view)
