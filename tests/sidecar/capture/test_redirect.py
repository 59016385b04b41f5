"""Installing the table: refused in the host's network namespace, whole in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from shared.model.errors import MachineError
from sidecar.capture import redirect
from sidecar.capture.redirect import refuse_host_namespace

INSTALL = """
import subprocess
from sidecar.capture.redirect import install_redirect
from sidecar.capture.redirect_table import RedirectRules
for _ in range(2):
    install_redirect(RedirectRules(outbound_port=15001, inbound_port=15006, tunnel_port=15008, uid=1337))
print(subprocess.run(['nft', 'list', 'table', 'inet', 'touchmark'], capture_output=True, text=True).stdout)
"""


@pytest.mark.needs_root
@pytest.mark.parametrize("release", [(6, 18), (6, 1), (0, 0)])
def test_the_hosts_network_namespace_is_refused(monkeypatch: pytest.MonkeyPatch, release: tuple[int, int]) -> None:
    """By its number; before Linux 6.18 by the sysctls that only the first one has."""
    monkeypatch.setattr(redirect, "_kernel_release", lambda: release)
    if release < (6, 18):
        monkeypatch.setattr(redirect, "_FIRST_NETWORK_NAMESPACE", 0)
    with pytest.raises(MachineError, match="refused in the host's"):
        refuse_host_namespace()


POD = """
import os
from sidecar.capture import redirect
assert os.stat('/proc/1/ns/net').st_ino == os.stat('/proc/self/ns/net').st_ino and os.getpid() != 1
for release in ((6, 18), (6, 1)):
    redirect._kernel_release = lambda release=release: release
    redirect.refuse_host_namespace()
print('not the host')
"""


@pytest.mark.needs_root
def test_a_pods_namespace_is_told_from_the_hosts_although_pid_1_is_in_it_as_well() -> None:
    """A process namespace of the pod's own, shared by its containers: PID 1 is the pause container, not the host's."""
    shell = f'{sys.executable} -c "$CODE"; true'
    done = subprocess.run(
        ["unshare", "--net", "--pid", "--fork", "--mount-proc", "sh", "-c", shell],
        env={**os.environ, "CODE": POD}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "not the host\n", done.stderr


def test_where_sysctls_cannot_be_seen_nobody_can_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redirect, "_kernel_release", lambda: (6, 1))
    monkeypatch.setattr(redirect, "_FIRST_NETWORK_NAMESPACE", 0)
    monkeypatch.setattr("os.listdir", lambda _: [])
    with pytest.raises(MachineError, match="can't tell"):
        refuse_host_namespace()


@pytest.mark.needs_root
def test_the_table_is_installed_once_however_often() -> None:
    done = subprocess.run(["unshare", "-n", sys.executable, "-c", INSTALL], capture_output=True, text=True, check=True)
    assert done.stdout.count("redirect to :14970-15001") == 1
    assert done.stdout.count("redirect to :15006") == 1
