"""The sidecar's own directory: one small file that outlives the process, for this user alone. I/O: that directory.

Belongs here: who may use it, and that the file is whole after a loss of power. Doesn't: what stands in the file
(``renewal_key.py``).
"""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from shared.model.errors import InputError, MachineError, UnavailableError

FILE: Final = "renewal.json"
MAX_BYTES: Final = 512 * 1024
_NEW: Final = "renewal.json.new"
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class StateDirectory:
    """A directory that one sidecar works in until its process ends.

    Arguments:
        path: is made if it isn't there.
        owner: the user that this process becomes; None: it stays who it is.

    Raises:
        InputError: it isn't a directory for this user alone.
        MachineError: it can't be made or used, or another sidecar works in it.
    """

    def __init__(self, path: Path, *, owner: int | None = None) -> None:
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._descriptor = os.open(path, _READ | os.O_DIRECTORY)
        except OSError as error:
            raise MachineError(f"can't use the state directory {path}: {error.strerror}") from error
        try:
            self._take(owner)
        except BaseException:
            os.close(self._descriptor)
            raise

    def close(self) -> None:
        """Let another sidecar work in it. (The kernel does as much when the process ends.)"""
        os.close(self._descriptor)

    def read(self) -> bytes | None:
        """Return the file's content; None: there is no file.

        Raises:
            InputError: it isn't a file of this user alone, or too large.
            MachineError: it can't be read.
        """
        try:
            descriptor = os.open(FILE, _READ, dir_fd=self._descriptor)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise MachineError(f"can't read {self.path / FILE}: {error.strerror}") from error
        with os.fdopen(descriptor, "rb") as file:
            self._check(os.fstat(descriptor), self.path / FILE, 0o600)
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise InputError(f"{self.path / FILE} is larger than {MAX_BYTES} bytes")
        return content

    def write(self, content: bytes) -> None:
        """Put the file in the former one's place: after a loss of power there is one of both. Waits for the disk.

        Raises:
            UnavailableError: the disk is full, or fails.
        """
        try:
            self._write_new(content)
            os.rename(_NEW, FILE, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)
            os.fsync(self._descriptor)
        except OSError as error:
            raise self._explain(error) from error

    def check_writable(self, size: int) -> None:
        """Check that so many bytes could be written now, and leave the file as it is. Waits for the disk.

        Raises:
            UnavailableError: the disk is full, read-only, or fails.
        """
        try:
            self._write_new(bytes(size))
            os.unlink(_NEW, dir_fd=self._descriptor)
        except OSError as error:
            raise self._explain(error) from error

    def _write_new(self, content: bytes) -> None:
        with suppress(FileNotFoundError):
            os.unlink(_NEW, dir_fd=self._descriptor)
        with os.fdopen(os.open(_NEW, _CREATE, 0o600, dir_fd=self._descriptor), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def _explain(self, error: OSError) -> UnavailableError:
        return UnavailableError(
            f"can't write {self.path / FILE}: {error.strerror}", hint="the renewal key has to outlive this process"
        )

    def _take(self, owner: int | None) -> None:
        self._owners = {os.geteuid()} if owner is None else {os.geteuid(), owner}
        self._check(os.fstat(self._descriptor), self.path, 0o700)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise MachineError(
                f"another sidecar works in the state directory {self.path}", hint="each sidecar needs its own"
            ) from error
        if owner is None:
            return
        try:
            os.fchown(self._descriptor, owner, owner)
            with suppress(FileNotFoundError):
                self._give_file(owner)
        except OSError as error:
            raise MachineError(
                f"can't give the state directory {self.path} to user {owner}: {error.strerror}"
            ) from error

    def _give_file(self, owner: int) -> None:
        descriptor = os.open(FILE, _READ | os.O_NONBLOCK, dir_fd=self._descriptor)
        try:
            found = os.fstat(descriptor)
            self._check(found, self.path / FILE, 0o600)
            if found.st_nlink != 1:  # The user may have put a link to a file of root's here.
                raise InputError(
                    f"{self.path / FILE} has another name elsewhere",
                    hint="take it away, and start the sidecar with a new join token",
                )
            os.fchown(descriptor, owner, owner)
        finally:
            os.close(descriptor)

    def _check(self, found: os.stat_result, path: Path, mode: int) -> None:
        is_kind = stat.S_ISDIR(found.st_mode) if mode & 0o100 else stat.S_ISREG(found.st_mode)
        if not is_kind or found.st_uid not in self._owners or found.st_mode & 0o077:
            raise InputError(
                f"{path} is for others as well, or somebody else's",
                hint=f"it must belong to the sidecar's user, with mode {mode:o}",
            )
