"""The disk under SQLite's file: what is left of it, and a reserve for the moment when it is full. I/O.

A full disk must not stop the CA: a certificate is a line in the ledger, and even deleting takes room in the log of
SQLite's transactions. So a file keeps some room. It is deleted when the disk is full; until there is room again no
decisions are taken, so that what the reserve gave goes to issuance and to pruning.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Final

RESERVE_NAME: Final = "reserve"
# More than twice SQLite's log of transactions (4 MiB), whose pages must fit into the file before it begins anew.
MAX_RESERVE_BYTES: Final = 16 * 1024 * 1024
_RESERVE_SHARE: Final = 1 / 4  # Of a small disk.


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """What can still be written, in bytes.

    Attributes:
        free: on the disk, and inside SQLite's file where rows were deleted.
        total: the disk's size.
    """

    free: int
    total: int


class Disk:
    """The disk that holds a directory.

    Attributes:
        is_full: a write has failed for want of room, and there isn't enough again.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._reserve = directory / RESERVE_NAME
        self.is_full = False

    def note_failure(self, error: BaseException) -> None:
        """Give the reserve up where a write failed because the disk is full."""
        if is_disk_full(error):
            self.is_full = True
            with contextlib.suppress(OSError):
                self._reserve.unlink()

    def measure(self, *, unused_in_file: int) -> Space:
        """Return what is left.

        Arguments:
            unused_in_file: bytes of deleted rows in SQLite's file, which it uses again.

        Raises:
            OSError: the directory is gone.
        """
        found = os.statvfs(self._directory)
        return Space(
            free=found.f_bavail * found.f_frsize + unused_in_file, total=max(1, found.f_blocks * found.f_frsize)
        )

    def refill(self, *, unused_in_file: int) -> None:
        """Make the reserve where it is missing and there is room for twice as much; then the disk isn't full.

        Raises:
            OSError: the directory is gone.
        """
        found = os.statvfs(self._directory)
        wanted = int(min(MAX_RESERVE_BYTES, found.f_blocks * found.f_frsize * _RESERVE_SHARE))
        if not self._reserve.exists() and found.f_bavail * found.f_frsize >= 2 * wanted:
            self._make(wanted)
        if self._reserve.exists() or unused_in_file >= 2 * wanted:
            self.is_full = False

    def _make(self, size: int) -> None:
        descriptor = os.open(self._reserve, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError:
            self._reserve.unlink()
        finally:
            os.close(descriptor)


def is_disk_full(error: BaseException | None) -> bool:
    """Tell whether a failure, or what caused it, is that the disk has no room (or the user's quota none)."""
    while error is not None:
        if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL:
            return True
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = getattr(error, "orig", None) or error.__cause__
    return False
