"""A running CA and its admin client, for the tests of both doors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ca.runtime.compose import RunningCA
from tests.ca.running import Admin, ShiftedClock, running_ca


@pytest.fixture
def clock() -> ShiftedClock:
    return ShiftedClock()


@pytest.fixture
async def services(tmp_path: Path, clock: ShiftedClock) -> AsyncIterator[RunningCA]:
    async with running_ca(tmp_path, clock=clock) as running:
        yield running


@pytest.fixture
async def admin(services: RunningCA) -> AsyncIterator[Admin]:
    async with Admin(services) as client:
        yield client
