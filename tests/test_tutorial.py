"""docs/tutorial.md works as written: its files and commands, one after another, in the shell that it tells to start."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs/tutorial.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"(?m)^\$ (.*?)(?: +#.*)?$", PAGE)
_RULE = "=" * 20

# What a reader waits for, too: each loop ends with what it waits for, or with the test.
_WAITS = """\
until_there() { until [ -e "$1" ]; do sleep 0.05; done; }
until_said() { until grep -q "$2" "$1" 2>/dev/null; do sleep 0.05; done; }
until_seen() { until touchmark decisions "$1" --json | grep -q program_not_approved; do sleep 0.1; done; }
until_open() { until curl -s "$1" >/dev/null; do sleep 0.05; done; }
"""


def write_script(folder: Path) -> str:
    """The page's commands as a script that tells of each its exit code and what it printed."""
    lines = ["exec 2>&1", "ip link set lo up", f"cd {shlex.quote(str(folder))}", _WAITS]
    for number, command in enumerate(COMMANDS):
        match command.split():
            case ["make", *_] | ["mkdir", *_] | ["unshare", *_]:  # Made already, and the shell that runs this script.
                continue
            case ["export", *_]:
                lines.append(command)
            case ["touchmark", "ca", "serve", *_, "&"]:
                lines += [command, "until_there admin.sock"]
            case ["touchmark", "sidecar", "run", *_, log, "2>&1", "&"]:
                lines += [command, f"until_said {log} sidecar_ready"]
            case ["python3", "-m", "http.server", *_, "&"]:
                lines += [command, "until_open http://127.0.0.1:8081/"]
            case _:
                if "--would-deny" in command:
                    lines.append("until_seen --would-deny")
                if "--denied" in command:
                    lines.append("until_seen --denied")
                asked = " --yes" if "--from-decisions" in command else ""  # Not a terminal.
                lines += [f"echo '{_RULE}{number}'", f"{command}{asked}", f"echo '{_RULE}'$?"]
    return "\n".join(lines) + "\n"


@pytest.mark.needs_root
def test_the_tutorial_works_as_written(tmp_path: Path) -> None:
    for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL):
        name = match[1] if (match := re.match(r"# (\S+\.yaml):", block)) else "rules.yaml"
        (tmp_path / name).write_text(block, encoding="utf-8")
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(tmp_path),
        "COLUMNS": "200",
    }
    [shell] = [command.split() for command in COMMANDS if command.startswith("unshare ")]
    assert shell.pop() == "bash"
    # The page's own shell, in a network of its own besides, which ends with this test.
    isolated = [*shell, "--net", "--kill-child=KILL"]
    bounded = ["timeout", "--signal=KILL", "600"]
    done = subprocess.run(
        [*isolated, *bounded, "bash", "-c", write_script(tmp_path)],
        env=environment, capture_output=True, text=True, timeout=620, check=False,
    )  # fmt: skip
    told = re.findall(rf"(?ms)^{_RULE}(\d+)\n(.*?)^{_RULE}(\d+)$", done.stdout)
    printed = {COMMANDS[int(number)]: text for number, text, _ in told}
    refused = {COMMANDS[int(number)] for number, _, code in told if code != "0"}
    assert refused == {"./intruder http://127.0.0.1:8080/", "touchmark doctor"} & refused, done.stdout
    assert "./intruder http://127.0.0.1:8080/" in refused, done.stdout
    assert "program_not_approved" in printed["touchmark decisions --would-deny"]
    assert "✓ explicit mode would refuse" in printed["touchmark mode shop --check"]
    # As curl calls it when the reset comes after it has noticed that it is connected, and before.
    refusal = printed["./intruder http://127.0.0.1:8080/"]
    assert "Connection reset by peer" in refusal or "Failed to connect" in refusal
    assert "program_not_approved" in printed["touchmark decisions --denied"]
    assert "touchmark program approve shop/web sha256:" in printed["touchmark decisions --denied"]
    # Nothing of the page was passed over: what isn't told of is set-up, or serves in the background.
    silent = ("make ", "mkdir ", "unshare ", "export ")
    assert len(told) == len(COMMANDS) - sum(each.startswith(silent) or each.endswith(" &") for each in COMMANDS)
