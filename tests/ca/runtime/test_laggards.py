"""Sidecars that a rotation waits for are named, counted, and get a new stream."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ca.runtime import laggards
from tests.ca.running import FakeSidecar, ShiftedClock, eventually, running_ca


async def test_a_silent_sidecar_is_named_and_its_stream_opened_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ca.runtime.upkeep.CHECK_INTERVAL_S", 0.05)
    clock = ShiftedClock()
    async with running_ca(tmp_path, clock=clock) as services, FakeSidecar(services) as silent:
        await silent.enrol("silent")
        await services.rotation.start()
        await eventually(lambda: b"touchmark_ca_rotation_laggards 1.0" in services.metrics.render())
        assert b'touchmark_ca_rotation_step{step="prepared"} 1.0' in services.metrics.render()
        assert services.hub.get("silent") is not None
        clock.shift_s = laggards.REOPENED_AFTER_S + 1
        await asyncio.wait_for(silent.stream.wait_closed(), 120)
        assert silent.stream.close_code == 1013  # Try again later.
        assert "rotation_waits" in capsys.readouterr().out
        await services.rotation.revert()
        await eventually(lambda: b"touchmark_ca_rotation_laggards 0.0" in services.metrics.render())
