"""The CA's deadlines in tests that aren't about them: a busy machine may need minutes."""

from __future__ import annotations

import pytest

from ca import listening
from ca.api.stream import endpoint
from ca.store.engine import database


def unhurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a CA in this process refuse no stream that is opened before its turn, and give no database up."""
    monkeypatch.setattr(endpoint, "FIRST_MESSAGE_DEADLINE_S", 300.0)
    monkeypatch.setattr(listening, "HANDSHAKE_DEADLINE_S", 120.0)
    monkeypatch.setattr(listening, "FIRST_REQUEST_DEADLINE_S", 120.0)
    monkeypatch.setattr(database, "CONNECT_DEADLINE_S", 120.0)
    monkeypatch.setattr(database, "POOL_DEADLINE_S", 120.0)
    monkeypatch.setattr(database, "STATEMENT_DEADLINE_S", 120.0)
    monkeypatch.setattr(database, "_BUSY_TIMEOUT_MS", 120_000)
