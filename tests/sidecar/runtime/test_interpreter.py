"""The interpreter is set up so that neither a thread nor the garbage collector holds the event loop up for long."""

from __future__ import annotations

import subprocess
import sys

_LOOK = """
import gc, sys, threading, time
from sidecar.runtime.interpreter import settle_collector, share_lock
kept = [[] for _ in range(50_000)]
settle_collector()
print(gc.get_freeze_count() > 50_000)
share_lock()
print(sys.getswitchinterval() <= 0.001)
collected = []
gc.callbacks.append(lambda phase, info: phase == "stop" and collected.append(info["generation"]))
more = [[] for _ in range(30_000)]
print(collected.count(0) >= 5 and 1 in collected and 2 not in collected)
"""


def test_the_lock_goes_round_quickly_and_collections_are_small() -> None:
    found = subprocess.run([sys.executable, "-c", _LOOK], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.split() == ["True"] * 3
