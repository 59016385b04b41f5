"""``python -m sidecar`` that holds connections, also on a kernel whose nftables has no queue (NFT_QUEUE).

There ``iptables`` installs the one rule that nft can't; everything else is the sidecar's own.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from unittest.mock import patch

from shared.model.errors import MachineError
from sidecar.__main__ import main
from sidecar.capture.redirect import install_redirect
from sidecar.capture.redirect_table import RedirectRules
from sidecar.runtime import prepare


def _install(rules: RedirectRules) -> None:
    try:
        install_redirect(rules)
    except MachineError:
        install_redirect(replace(rules, holds_connects=False))
        for program in ("iptables", "ip6tables"):
            rule = (
                f"{program} -w -t mangle -A OUTPUT -p tcp --syn -m owner ! --uid-owner {rules.uid} "
                f"-m addrtype ! --dst-type LOCAL -j NFQUEUE --queue-num {rules.outbound_port} --queue-bypass"
            )
            subprocess.run(rule.split(), check=True)


if __name__ == "__main__":
    with patch.object(prepare, "install_redirect", _install):
        raise SystemExit(main(sys.argv[1:]))
