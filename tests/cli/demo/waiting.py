"""Waiting for what comes soon, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(is_there: Callable[[], bool], *, timeout_s: float = 60.0) -> None:
    """Return once the condition holds; fail when it doesn't in time."""
    deadline = time.monotonic() + timeout_s
    while not is_there():
        assert time.monotonic() < deadline, "it didn't come in time"
        time.sleep(0.05)
