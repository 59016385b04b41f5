"""A fake CA whose socket the commands find in their environment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.fake_ca import FakeCA, running_ca


@pytest.fixture
def ca(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCA]:
    with running_ca(tmp_path) as fake:
        monkeypatch.setenv("TOUCHMARK_ADMIN_SOCKET", str(fake.socket))
        yield fake
