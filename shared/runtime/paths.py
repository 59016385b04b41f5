"""Default paths. Reads the environment and the user id; opens nothing.

Root: the system's directories. An ordinary user: those of the XDG Base Directory Specification 0.8.
"""

from __future__ import annotations

import os
from pathlib import Path

ADMIN_SOCKET_VARIABLE = "TOUCHMARK_ADMIN_SOCKET"


def default_data_dir() -> Path:
    """Return the directory of the CA's store."""
    if os.geteuid() == 0:
        return Path("/var/lib/touchmark")
    return _user_dir("XDG_DATA_HOME", ".local/share") / "touchmark"


def default_kek_file() -> Path:
    """Return the file of the key-encryption key: never inside the data directory, so that no backup holds both."""
    if os.geteuid() == 0:
        return Path("/etc/touchmark/kek")
    return _user_dir("XDG_CONFIG_HOME", ".config") / "touchmark" / "kek"


def default_admin_socket() -> Path:
    """Return the admin API's Unix socket: ``TOUCHMARK_ADMIN_SOCKET``, else the runtime directory's."""
    if given := os.environ.get(ADMIN_SOCKET_VARIABLE):
        return Path(given)
    if os.geteuid() == 0:
        return Path("/run/touchmark/admin.sock")
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime):
        return Path(runtime) / "touchmark" / "admin.sock"
    return _user_dir("XDG_STATE_HOME", ".local/state") / "touchmark" / "admin.sock"


def _user_dir(variable: str, fallback: str) -> Path:
    value = os.environ.get(variable, "")
    # The specification: a relative path in these variables is invalid and to be ignored.
    return Path(value) if os.path.isabs(value) else Path.home() / fallback
