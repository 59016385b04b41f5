"""``python -m sidecar`` whose deadlines a busy machine hardly reaches: for tests that aren't about them.

A peer, the CA or the sidecar itself may stand still for many seconds there, and is refused for it.
"""

from __future__ import annotations

import sys

from sidecar.__main__ import main
from sidecar.parts import Limits

_DEADLINE_S = 60.0  # Less than what the tests' programs wait.


def unhurry() -> None:
    """Give this process' sidecar longer deadlines than it has by default."""
    defaults = Limits.__init__.__kwdefaults__
    assert defaults is not None
    for name in ("client_hello_s", "handshake_s", "dial_s", "open_s", "attest_s", "obtain_s", "reset_s"):
        assert name in defaults
        defaults[name] = _DEADLINE_S


if __name__ == "__main__":
    unhurry()
    raise SystemExit(main(sys.argv[1:]))
