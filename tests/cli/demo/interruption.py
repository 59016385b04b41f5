"""Ctrl-C at the worst moment: a thread runs already, but its start() hasn't returned."""

from __future__ import annotations

import threading

import pytest


def interrupt_starts(monkeypatch: pytest.MonkeyPatch) -> list[threading.Thread]:
    """Have each start of a thread end in KeyboardInterrupt; return those that were started."""
    started: list[threading.Thread] = []
    start = threading.Thread.start

    def start_and_interrupt(thread: threading.Thread) -> None:
        start(thread)
        started.append(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", start_and_interrupt)
    return started
