"""An interpreter with file capabilities, started as a pod's runtime starts it: the sidecar's user, two capabilities."""

from __future__ import annotations

import os
import shutil
import struct
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
KEPT = (1 << 2) | (1 << 19)
# As containerd does it: bounding and permitted sets narrowed, the user changed, no_new_privs set; then exec.
_START = """
import os, sys
from sidecar.runtime.privileges import become_user
become_user(int(sys.argv[1]), int(sys.argv[2]))
os.execv(sys.argv[3], sys.argv[3:])
"""


def make_interpreter(directory: Path, capabilities: int = KEPT) -> Path:
    """Copy the interpreter and give it file capabilities: revision 2, effective (include/uapi/linux/capability.h)."""
    copy = directory / "python"
    shutil.copy(os.path.realpath(sys.executable), copy)
    copy.chmod(0o755)
    value = struct.pack("<5I", 0x02000001, capabilities & 0xFFFFFFFF, 0, capabilities >> 32, 0)
    os.setxattr(copy, "security.capability", value)
    return copy


def start_in_pod(interpreter: Path, *arguments: str, uid: int = 1337, capabilities: int = KEPT) -> list[str]:
    """Return the command; run it as root with ``variables``. The container has these capabilities."""
    return [sys.executable, "-c", _START, str(uid), str(capabilities), str(interpreter), *arguments]


def variables() -> dict[str, str]:
    """The environment that lets the copy find its modules: it has no environment of its own."""
    paths = [str(ROOT), *(path for path in sys.path if path.endswith("site-packages"))]
    return {**os.environ, "PYTHONPATH": ":".join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
