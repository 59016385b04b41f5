"""Giving up root, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

DROP = """
from sidecar.privileges import KEPT, become_user, permitted
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
