"""An interpreter's main script, opened as the process itself would find it. Does I/O, off the event loop.

The path is resolved in the process's own root and working directory of *now*: a relative path after a ``chdir`` leads
nowhere, or elsewhere. It is a claim anyway.
"""

from __future__ import annotations

import errno
import os
import stat

from sidecar.attest.filesystem import open_in_root, open_without_links
from sidecar.attest.interpreter.main_script import find_main_script
from sidecar.attest.process import Process

_MAX_ARGUMENTS_BYTES = 131_072
_MAX_PATH_BYTES = 4_096


def open_main_script(process: Process) -> int | None:
    """Open the main script that an interpreter's process names; the caller closes the descriptor.

    Returns:
        None when it names none, or one that isn't there, isn't a regular file or can't be read.
    """
    try:
        text = process.read_arguments(_MAX_ARGUMENTS_BYTES)
    except OSError:
        return None
    path = find_main_script(process.facts.path, text.removesuffix(b"\0").split(b"\0"))
    if not path or len(path) > _MAX_PATH_BYTES or b"\0" in path:
        return None
    try:
        found = _resolve(process, path)
    except OSError:
        return None
    try:
        # Only a path-only descriptor so far: opening a pipe or a device for reading could wait, or have effects.
        if not stat.S_ISREG(os.fstat(found).st_mode):
            return None
        return os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError:
        return None
    finally:
        os.close(found)


def _resolve(process: Process, path: bytes) -> int:
    if path.startswith(b"/"):
        return _open_inside(process, path)
    directory = process.open_inside("cwd")
    try:
        return open_without_links(directory, path, os.O_PATH)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
    finally:
        os.close(directory)
    # With a link on the way the path must be walked from the process's root, or an absolute link would lead to ours.
    return _open_inside(process, os.path.join(os.fsencode(process.read_working_directory()), path))


def _open_inside(process: Process, path: bytes) -> int:
    root = process.open_inside("root")
    try:
        return open_in_root(root, path, os.O_PATH)
    finally:
        os.close(root)
