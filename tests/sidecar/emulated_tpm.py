"""A TPM 2.0 for tests: swtpm, in a process of its own."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

NEEDS_SWTPM = pytest.mark.skipif(shutil.which("swtpm") is None, reason="swtpm, a TPM's emulator, isn't installed")

# __SO_ACCEPTCON among a Unix socket's flags (proc(5), include/uapi/linux/net.h).
_LISTENS = "00010000"


class Emulator:
    """A TPM whose state is in a folder: whoever starts another process there has the same TPM, switched on again."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "tpm"
        folder.mkdir(exist_ok=True)
        self._process = subprocess.Popen(
            ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={folder}", "--flags", "startup-clear,not-need-init",
             "--server", f"type=unixio,path={self.path}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while not self._listens():
            assert self._process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)

    def _listens(self) -> bool:
        """Its socket has a path before it listens, and who connects in between is refused."""
        lines = Path("/proc/net/unix").read_text(encoding="utf-8", errors="replace").splitlines()
        return any(line.split()[3] == _LISTENS and line.endswith(f" {self.path}") for line in lines[1:])

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self.path.unlink(missing_ok=True)
