"""A TLS library that does what a script says, for the compiled loop: real functions at real addresses."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable

from cryptography.hazmat.bindings._rust import _openssl

WANT_READ = 2
WANT_WRITE = 3
SYSCALL = 5

_READ = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)
_GET_ERROR = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
_CLEAR = ctypes.CFUNCTYPE(None)
TLS = 0x1000  # An object that only the script would look into.


class ScriptedTls:
    """Reads and writes of one connection.

    Arguments:
        records: what the reads return, one after the other; a longer one than is asked for comes in several.
        takes: how much each write takes at most; then it takes everything.
        end: what ``SSL_get_error`` says when there is nothing more to read.
        stop_after: after so many writes each one fails ...
        stop: ... with this.
    """

    def __init__(
        self,
        records: Iterable[bytes] = (),
        *,
        takes: Iterable[int] = (),
        end: int = WANT_READ,
        stop_after: int | None = None,
        stop: int = WANT_WRITE,
    ) -> None:
        self._records = list(records)
        self._takes = list(takes)
        self._end = end
        self._left = stop_after
        self._stop = stop
        self._error = 0
        self.read = bytearray()
        self.reads = 0
        self.written = bytearray()
        self.writes = 0
        self._functions = (_READ(self._read), _READ(self._write), _GET_ERROR(self._get_error), _CLEAR(lambda: None))

    @property
    def addresses(self) -> tuple[int, int, int, int]:
        """Of the four functions; valid as long as this object."""
        read, write, get_error, clear = (
            ctypes.cast(function, ctypes.c_void_p).value or 0 for function in self._functions
        )
        return read, write, get_error, clear

    def _read(self, _tls: int, buffer: int, size: int) -> int:
        if not self._records:
            self._error = self._end
            return -1
        record = self._records.pop(0)
        if len(record) > size:
            self._records.insert(0, record[size:])
            record = record[:size]
        ctypes.memmove(buffer, record, len(record))
        self.read += record
        self.reads += 1
        return len(record)

    def _write(self, _tls: int, buffer: int, size: int) -> int:
        if self._left is not None:
            if not self._left:
                self._error = self._stop
                return -1
            self._left -= 1
        count = min(size, self._takes.pop(0)) if self._takes else size
        self.written += ctypes.string_at(buffer, count)
        self.writes += 1
        return count

    def _get_error(self, _tls: int, _result: int) -> int:
        return self._error


class ShortRecords:
    """OpenSSL itself, as it is when the peer has asked for short records (RFC 6066, section 4: max_fragment_length).

    Arguments:
        most: bytes of each record.

    Attributes:
        loop: that writes so; valid as long as this object.
    """

    def __init__(self, most: int) -> None:
        ffi, lib = _openssl.ffi, _openssl.lib
        names = ("SSL_read", "SSL_write", "SSL_get_error", "ERR_clear_error")
        self._addresses = [int(ffi.cast("uintptr_t", ffi.addressof(lib, name))) for name in names]
        kept = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, use_errno=True)
        whole = kept(self._addresses[1])
        self._write = kept(lambda tls, data, size: whole(tls, data, min(size, most)))
        read, _, get_error, clear = self._addresses
        from sidecar.native._loop import Loop

        self.loop = Loop(read, ctypes.cast(self._write, ctypes.c_void_p).value or 0, get_error, clear)
