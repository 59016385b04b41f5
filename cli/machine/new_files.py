"""Files that a verb makes: mode 0600, never over another, whole or not at all. Does I/O."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from shared.model.errors import InputError


@contextlib.contextmanager
def writing_new_file(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write; it gets its name at the end of the block, durably, or not at all.

    Raises:
        InputError: the file exists, or can't be written.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        if path.exists():  # Before anything is written; the link below decides.
            raise FileExistsError(17, "it exists")
        descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.link(draft, path)
        finally:
            draft.unlink()
        directory = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise InputError(f"can't write {path}: {error.strerror}", hint="name a file that doesn't exist yet") from error
