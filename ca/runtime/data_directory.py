"""The data directory's lock: one CA works in it, and notices when it is gone. I/O: flock(2), stat(2)."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import structlog

from ca.store.engine.database import DATABASE_NAME
from shared.model.errors import ConflictError, InputError, UnavailableError

CHECK_INTERVAL_S: Final = 1.0
_RETRY_S: Final = 0.2

_log = structlog.get_logger("touchmark.ca")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldDirectory:
    """A data directory whose lock this process holds.

    Attributes:
        files: (device, inode) by name of the files that must stay: the lock's and, once it is open, the store's.
    """

    path: Path
    files: Mapping[str, tuple[int, int]]

    def with_store(self) -> HeldDirectory:
        """Return the same with the store's file, which is there by now. Raises ``UnavailableError`` otherwise."""
        return replace(self, files={**self.files, DATABASE_NAME: self._identify(DATABASE_NAME)})

    def check(self) -> None:
        """Check that the directory is still there, with the lock and the store. SQLite itself doesn't notice.

        Raises:
            UnavailableError: it was deleted, or another one is in its place.
        """
        # A store that is missing is made anew, empty, by SQLite's next connection: it is another file then.
        if any(self._identify(name) != file for name, file in self.files.items()):
            raise self._gone()

    def _identify(self, name: str) -> tuple[int, int]:
        try:
            found = (self.path / name).stat()
        except OSError as error:
            raise self._gone() from error
        return found.st_dev, found.st_ino

    async def watch(self) -> None:
        """Return never; what the CA would write from then on would be lost.

        Raises:
            UnavailableError: the directory is gone.
        """
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            try:
                self.check()
            except UnavailableError:
                _log.error("data_directory_gone", directory=str(self.path))
                raise

    def _gone(self) -> UnavailableError:
        return UnavailableError(
            f"the data directory {self.path} was deleted or replaced under the running CA",
            hint="put it back, or restore a backup with `touchmark ca restore`, then start again",
        )


@contextlib.contextmanager
def lock_data_directory(directory: Path) -> Iterator[HeldDirectory]:
    """Hold the data directory for this process alone.

    Raises:
        ConflictError: another process holds it.
        InputError: it can't be used.
    """
    with _open_lock(directory) as descriptor:
        if not _try_lock(descriptor):
            raise _taken(directory)
        yield _hold(directory, descriptor)


@contextlib.asynccontextmanager
async def wait_for_data_directory(directory: Path, *, wait_s: float) -> AsyncIterator[HeldDirectory]:
    """Hold the data directory once the CA that this one replaces has left it. Raises as ``lock_data_directory``.

    Arguments:
        wait_s: how long to wait for it.
    """
    with _open_lock(directory) as descriptor:
        deadline = asyncio.get_running_loop().time() + wait_s
        has_told = False
        while not _try_lock(descriptor):
            if asyncio.get_running_loop().time() >= deadline:
                raise _taken(directory)
            if not has_told:
                _log.warning("waiting_for_data_directory", directory=str(directory), at_most_s=wait_s)
                has_told = True
            await asyncio.sleep(_RETRY_S)
        yield _hold(directory, descriptor)


@contextlib.contextmanager
def _open_lock(directory: Path) -> Iterator[int]:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InputError(
            f"the data directory can't be used: {directory}: {error.strerror}",
            hint="give the CA's user a directory of its own with --data-dir",
        ) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _hold(directory: Path, descriptor: int) -> HeldDirectory:
    status = os.fstat(descriptor)
    return HeldDirectory(path=directory, files={"lock": (status.st_dev, status.st_ino)})


def _taken(directory: Path) -> ConflictError:
    return ConflictError(f"another CA works in {directory}", hint="stop it first, or give this one another --data-dir")
