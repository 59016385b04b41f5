"""Giving up root, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.sidecar.pod_interpreter import KEPT, make_interpreter, start_in_pod, variables

DROP = """
from sidecar.runtime.privileges import KEPT, become_user, permitted
become_user(1337)
print(permitted() == KEPT, *(line for line in open('/proc/self/status') if line[:3] in ('Uid', 'Gid', 'Cap', 'Gro')))
try:
    import os; os.setuid(0)
except PermissionError:
    print('no way back')
"""


@pytest.mark.needs_root
def test_only_two_capabilities_stay_and_there_is_no_way_back() -> None:
    done = subprocess.run([sys.executable, "-c", DROP], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("True")
    assert "CapEff:\t0000000000080004" in done.stdout
    assert "CapBnd:\t0000000000080004" in done.stdout
    assert "CapInh:\t0000000000000000" in done.stdout
    assert "Uid:\t1337\t1337\t1337\t1337" in done.stdout
    assert "Gid:\t1337\t1337\t1337\t1337" in done.stdout
    assert done.stdout.endswith("no way back\n")


@pytest.mark.needs_root
def test_a_third_stays_where_connections_are_held() -> None:
    code = DROP.replace("become_user(1337)", "become_user(1337, KEPT | 1 << 12)").replace(
        "== KEPT", "== KEPT | 1 << 12"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("True")
    assert "CapEff:\t0000000000081004" in done.stdout
    assert "CapBnd:\t0000000000081004" in done.stdout


IN_A_POD = """
import sys
from shared.model.errors import MachineError
from shared.runtime.memory import forbid_dumps
from sidecar.runtime.privileges import keep_what_a_pod_gives
try:
    keep_what_a_pod_gives(*map(int, sys.argv[1:]))
    forbid_dumps()
except MachineError as error:
    print(error.message, '|', error.hint)
print(*(line for line in open('/proc/self/status') if line[:3] in ('Uid', 'Cap', 'NoN')))
import os
other = f'/proc/{os.getppid()}'  # Another user's process.
os.stat(f'{other}/exe'); os.listdir(f'{other}/fd'); print('attests')
"""


def run_in_pod(interpreter: Path, expected_uid: int = 1337, uid: int = 1337) -> str:
    command = start_in_pod(interpreter, "-c", IN_A_POD, str(expected_uid), uid=uid)
    done = subprocess.run(command, env=variables(), capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.needs_root
def test_in_a_pod_file_capabilities_are_enough_and_nothing_else_stays(tmp_path: Path) -> None:
    said = run_in_pod(make_interpreter(tmp_path))
    assert "lacks" not in said
    for name in ("CapEff", "CapPrm", "CapBnd"):
        assert f"{name}:\t0000000000080004" in said
    for name in ("CapInh", "CapAmb"):
        assert f"{name}:\t0000000000000000" in said
    assert "NoNewPrivs:\t1" in said
    assert said.endswith("attests\n")


@pytest.mark.needs_root
def test_in_a_pod_what_is_missing_or_too_much_is_named(tmp_path: Path) -> None:
    plain = make_interpreter(tmp_path, 1 << 2)
    assert "lacks the capabilities that attestation needs: SYS_PTRACE |" in run_in_pod(plain)
    assert "it would capture itself | securityContext: runAsUser: 1338" in run_in_pod(plain, expected_uid=1338)
    done = subprocess.run(
        [sys.executable, "-c", IN_A_POD, "1337"], env=variables(), capture_output=True, text=True, check=True
    )
    assert "must not run as root in a pod | securityContext: runAsUser: 1337" in done.stdout
    assert KEPT == 0x80004


@pytest.mark.needs_root
def test_in_a_pod_that_holds_connections_net_admin_stays_and_is_asked_for(tmp_path: Path) -> None:
    kept = KEPT | 1 << 12
    command = start_in_pod(make_interpreter(tmp_path, kept), "-c", IN_A_POD, "1337", str(kept), capabilities=kept)
    done = subprocess.run(command, env=variables(), capture_output=True, text=True, check=True)
    assert "lacks" not in done.stdout
    assert "CapEff:\t0000000000081004" in done.stdout
    plain = start_in_pod(make_interpreter(tmp_path), "-c", IN_A_POD, "1337", str(kept))
    done = subprocess.run(plain, env=variables(), capture_output=True, text=True, check=True)
    assert "lacks the capabilities that --hold-connects needs: NET_ADMIN | " in done.stdout
    assert "add: [SYS_PTRACE, DAC_READ_SEARCH, NET_ADMIN]" in done.stdout
