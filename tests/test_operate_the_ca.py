"""docs/how-to/operate-the-ca.md works as written: its commands, one after another, with a CA in a folder of its own."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

PAGE = (Path(__file__).parents[1] / "docs/how-to/operate-the-ca.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"(?m)^\$ (.*)$", PAGE)

# The CA's own places are those of this machine: here they are in the folder. A machine has systemd.
_HERE = """\
set -e
start() { command touchmark ca serve --listen 127.0.0.1:0 --data-dir store --kek-file kek 2>>log &
  until [ -S "$TOUCHMARK_ADMIN_SOCKET" ]; do sleep 0.05; done; }
stop() { kill %%; wait %% || true; }
systemctl() { $1; }
touchmark() { case "$1 $2" in
  "ca serve") start ;;
  "ca restore"|"ca rewrap") command touchmark "$@" --data-dir store --kek-file kek ;;
  "ca backup-key") RECIPIENT=$(command touchmark "$@") ;;
  *) command touchmark "$@" ;;
esac; }
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
"""


def test_each_command_of_the_page_works(tmp_path: Path) -> None:
    lines = [_HERE, f"cd {shlex.quote(str(tmp_path))}"]
    lines += [line for command in COMMANDS for line in (f"echo {shlex.quote(f'$ {command}')}", command)]
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "TOUCHMARK_ADMIN_SOCKET": str(tmp_path / "admin.sock"),
    }
    ended = subprocess.run(
        ["bash", "-c", "\n".join(lines)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=620,
        check=False,
    )
    log = tmp_path / "log"
    assert ended.returncode == 0, ended.stdout[-4000:] + (log.read_text()[-2000:] if log.exists() else "")
    assert "the backup is whole" in ended.stdout and "restored the CA" in ended.stdout
    assert log.read_text().count('"ca_started"') == COMMANDS.count("systemctl start touchmark-ca") + 1
