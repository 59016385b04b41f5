"""A peer's node that has gone without a word: found out by keep-alive, or by the next connection in a moment."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.sidecar.tunnel import gone_peer


@pytest.mark.parametrize("scenario", ["reuse", "early-data", "idle", "unacknowledged"])
@pytest.mark.skipif(os.geteuid() != 0, reason="makes a network namespace")
def test_a_peer_that_has_gone(scenario: str) -> None:
    """``gone_peer.py`` says what each shows."""
    ran = subprocess.run(
        ["unshare", "--net", sys.executable, "-m", gone_peer.__name__, scenario],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
