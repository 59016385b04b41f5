"""Installing the table: refused in the host's network namespace, whole in one of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from shared.model.errors import MachineError
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
def test_the_hosts_network_namespace_is_refused() -> None:
    with pytest.raises(MachineError):
        refuse_host_namespace()


@pytest.mark.needs_root
def test_the_table_is_installed_once_however_often() -> None:
    done = subprocess.run(["unshare", "-n", sys.executable, "-c", INSTALL], capture_output=True, text=True, check=True)
    assert done.stdout.count("redirect to :14970-15001") == 1
    assert done.stdout.count("redirect to :15006") == 1
