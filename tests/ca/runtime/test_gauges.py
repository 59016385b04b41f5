"""Gauges say how the store answers, what waits, and how far the audit log is."""

from __future__ import annotations

from pathlib import Path

import pytest

from ca.runtime.gauges import Gauges
from shared.model.errors import UnavailableError
from tests.ca.running import FakeSidecar, running_ca


async def test_they_are_looked_at_and_a_store_that_fails_is_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_ca(tmp_path) as services, FakeSidecar(services) as sidecar:
        await sidecar.enrol("a")
        gauges = Gauges(store=services.store, hub=services.hub, metrics=services.metrics)
        await gauges.look()
        head = (await services.store.audit.list_lines(limit=1, newest=True)).head
        assert head.sequence > 0
        shown = services.metrics.render().decode()
        for line in (
            "touchmark_ca_store_up 1.0",
            f"touchmark_ca_audit_lines {float(head.sequence)}",
            "touchmark_ca_ledger_waiting 0.0",
            "touchmark_ca_stream_messages_waiting 0.0",
        ):
            assert line in shown

        async def fail() -> None:
            raise UnavailableError("gone")

        monkeypatch.setattr(services.store, "check", fail)
        await gauges.look()
        assert "touchmark_ca_store_up 0.0" in services.metrics.render().decode()
