"""A running CA and its admin client, for the tests of both doors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ca.runtime.services import Services
from tests.ca.running import Admin, running_ca


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    async with running_ca(tmp_path) as running:
        yield running


@pytest.fixture
async def admin(services: Services) -> AsyncIterator[Admin]:
    async with Admin(services) as client:
        yield client
