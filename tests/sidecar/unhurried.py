"""The sidecar's deadlines towards the CA in tests that aren't about them: a busy machine may need minutes."""

from __future__ import annotations

import pytest

from sidecar.control import ca_dial, link, opening


def unhurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a sidecar's control plane in this process give up no stream."""
    monkeypatch.setattr(ca_dial, "_CONNECT_S", 120.0)
    monkeypatch.setattr(link, "_SEND_S", 120.0)
    monkeypatch.setattr(opening, "_DIAL_S", 120.0)
    monkeypatch.setattr(opening, "_WELCOME_S", 120.0)
