"""The data directory's lock: one CA works in it. I/O: flock(2)."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from shared.model.errors import ConflictError, InputError


@contextlib.contextmanager
def lock_data_directory(directory: Path) -> Iterator[None]:
    """Hold the data directory for this process alone."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InputError(
            f"the data directory can't be used: {directory}: {error.strerror}",
            hint="give the CA's user a directory of its own with --data-dir",
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConflictError(
                f"another CA works in {directory}", hint="stop it first, or give this one another --data-dir"
            ) from error
        yield
    finally:
        os.close(descriptor)
