"""What tests of the stream to the CA share."""

from __future__ import annotations

import pytest

from tests.sidecar.unhurried import unhurry


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is, no stream is given up."""
    unhurry(monkeypatch)
