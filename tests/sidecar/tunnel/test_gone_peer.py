"""A peer's node that has gone without a word: found out by keep-alive, or by the next connection in a moment."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from sidecar.sockets.liveness import bounds_retransmissions
from tests.sidecar.tunnel import gone_peer

NEEDS_BOUND = pytest.mark.skipif(
    not bounds_retransmissions(), reason="this kernel lets no socket bound its retransmissions (Linux 6.15 does)"
)


@pytest.mark.parametrize("scenario", ["reuse", "early-data", "idle", pytest.param("unacknowledged", marks=NEEDS_BOUND)])
@pytest.mark.skipif(os.geteuid() != 0, reason="makes a network namespace")
def test_a_peer_that_has_gone(scenario: str) -> None:
    """``gone_peer.py`` says what each shows."""
    ran = subprocess.run(
        ["unshare", "--net", sys.executable, "-m", gone_peer.__name__, scenario],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
