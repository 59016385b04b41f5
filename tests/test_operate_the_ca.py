"""The CA's handbook works as written: each page's commands, one after another, with a CA in a folder of its own."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

from tests.free_ports import free_port

HOW_TO = Path(__file__).parents[1] / "docs/how-to"

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


# Rotations, thefts, evictions, the audit log: with one sidecar that lives. What asks has no terminal here, and is told
# yes; a page's names stand for what is there.
_WITH_SIDECAR = """\
set -e
command touchmark ca serve --listen 127.0.0.1:0 --data-dir store --kek-file kek 2>>log &
until [ -S "$TOUCHMARK_ADMIN_SOCKET" ]; do sleep 0.05; done
command touchmark ca join-token shop/web --output web.token
command touchmark sidecar run --config web.yaml --token-file web.token --instance web-1 >>sidecar.log 2>&1 &
sidecar=$!
until command touchmark ca status --json | grep -q '"sidecars_connected":1'; do kill -0 $sidecar; sleep 0.2; done
touchmark() { case "$*" in
  "ca taint AUTHORITY") command touchmark ca taint --yes "$(command touchmark ca status --json | old_root)" ;;
  "ca evict"*|"audit export"*) command touchmark "$@" --yes ;;
  "ca join-token list") command touchmark ca join-token shop/web --json | name_of token_id >token
    command touchmark "$@" | tee listed; grep -q "$(cat token)" listed ;;
  "ca join-token revoke TOKEN") command touchmark ca join-token revoke "$(cat token)" ;;
  "audit verify") command touchmark "$@" | tee verified ;;
  "audit verify --head"*) command touchmark audit verify --head "$(grep -o '[1-9][0-9]*:[0-9a-f]*$' verified)" ;;
  *) command touchmark "$@" ;;
esac; }
name_of() { python -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }
old_root() { python -c 'import json, sys
found = [each for each in json.load(sys.stdin)["authorities"] if (each["kind"], each["phase"]) == ("root", "old")]
print(found[0]["authority_id"])'
}
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
"""


def run_pages(prelude: str, pages: list[str], directory: Path) -> tuple[str, list[str]]:
    """Run the pages' commands in a shell; return what it prints, and the commands."""
    texts = [(HOW_TO / page).read_text(encoding="utf-8") for page in pages]
    commands = [command for text in texts for command in re.findall(r"(?m)^\$ (.*)$", text)]
    lines = [prelude, f"cd {shlex.quote(str(directory))}"]
    if prelude is _WITH_SIDECAR:
        lines.reverse()
    lines += [line for command in commands for line in (f"echo {shlex.quote(f'$ {command}')}", command)]
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": str(directory),
        "TOUCHMARK_ADMIN_SOCKET": str(directory / "admin.sock"),
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
    log = directory / "log"
    assert ended.returncode == 0, ended.stdout[-4000:] + (log.read_text()[-2000:] if log.exists() else "")
    return ended.stdout, commands


def test_each_command_of_operating_works(tmp_path: Path) -> None:
    printed, commands = run_pages(_HERE, ["operate-the-ca.md"], tmp_path)
    assert "the backup is whole" in printed and "restored the CA" in printed
    assert (tmp_path / "log").read_text().count('"ca_started"') == commands.count("systemctl start touchmark-ca") + 1


def test_each_command_of_rotating_of_locking_out_and_of_the_audit_log_works(tmp_path: Path) -> None:
    (tmp_path / "web.yaml").write_text(
        f"outbound: [{{listen: 127.0.0.1:{free_port()}, destination: 127.0.0.2:7}}]\n", encoding="utf-8"
    )
    printed, commands = run_pages(_WITH_SIDECAR, ["rotate.md", "evict.md", "audit.md"], tmp_path)
    assert len(commands) >= 16
    assert "evicted: web-1" in printed and "lines, after" in printed
