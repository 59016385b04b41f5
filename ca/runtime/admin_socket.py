"""The admin API's Unix socket: made with its mode, and removed at the end by who made it. I/O.

Belongs here: the file. Doesn't: what is served there (``ca/api/admin/application.py``).
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from shared.model.errors import ConflictError, TouchmarkError, UnavailableError


@contextlib.contextmanager
def bind_admin_socket(path: Path, *, readers_gid: int | None = None) -> Iterator[socket.socket]:
    """Make the socket for as long as the context lasts, for the CA's user and a group.

    Arguments:
        readers_gid: the group that may connect as well; None: the CA's user alone.

    Raises:
        ConflictError: another CA serves it.
        UnavailableError: it can't be made.
    """
    listener = _bind(path, readers_gid)
    inode = os.stat(path).st_ino
    try:
        yield listener
    finally:
        with contextlib.suppress(OSError):
            if path.stat().st_ino == inode:
                path.unlink()


def _bind(path: Path, readers_gid: int | None) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _remove_stale(path)
        # The mode holds from the very first moment: a chmod afterwards would leave a gap.
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        if readers_gid is not None:
            os.chown(path, -1, readers_gid)
            os.chmod(path, 0o660)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise UnavailableError(
            f"the admin socket can't be made: {path}: {error.strerror}", hint="choose another --admin-socket"
        ) from error
    except TouchmarkError:
        listener.close()
        raise
    return listener


def _remove_stale(path: Path) -> None:
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise ConflictError(f"another CA serves {path}", hint="stop it first, or choose another --admin-socket")
