"""What the CA looks after by itself."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ca.runtime import upkeep
from shared.model.errors import UnavailableError
from shared.model.policy.rules import Mode
from shared.model.wire.messages import NamespaceChanged
from tests.ca.running import FakeSidecar, ShiftedClock, eventually, make_decision, running_ca


async def test_upkeep_prunes_renews_and_forgets_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PRUNE_INTERVAL_S", "CERTIFICATE_CHECK_S", "REFRESH_INTERVAL_S"):
        monkeypatch.setattr(upkeep, name, 0.05)
    clock = ShiftedClock()
    async with running_ca(tmp_path, clock=clock) as services:
        async with FakeSidecar(services) as sidecar:
            await sidecar.enrol("a", "198.18.0.2")
        await services.store.decisions.insert([make_decision("old", time=1.0)])
        before = services.server_certificate.not_after
        clock.shift_s = 50_000  # Past the leaf's life, and half of the server certificate's.
        await eventually(lambda: services.server_certificate.not_after > before)
        await eventually(lambda: services.hub.directory.get("198.18.0.2").namespace == "")
        await eventually(lambda: b"touchmark_ca_decisions_pruned_total 1.0" in services.metrics.render())


async def test_what_ended_long_ago_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "PRUNE_INTERVAL_S", 0.05)
    clock = ShiftedClock()
    async with running_ca(tmp_path, clock=clock) as services:
        async with FakeSidecar(services) as sidecar:
            await sidecar.enrol("a", "198.18.0.2")
        clock.shift_s = upkeep.LEDGER_KEPT_S - 7200
        await asyncio.sleep(0.2)
        assert len(await services.store.ledger.list_lines()) == len(await services.store.join_tokens.list_all()) == 1
        clock.shift_s = upkeep.LEDGER_KEPT_S + services.issuance.leaf_lifetime_s + 7200

        async def is_forgotten() -> bool:
            store = services.store
            return not (
                await store.ledger.list_lines() or await store.join_tokens.list_all() or await store.sidecars.list_all()
            )

        await eventually(is_forgotten)


async def test_a_change_is_pushed_although_the_store_failed_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_ca(tmp_path) as services, FakeSidecar(services) as sidecar:
        await sidecar.enrol("a")
        real, failures = services.store.namespaces.get_state, iter([True])

        async def fail_once(namespace: str) -> object:
            if next(failures, False):
                raise UnavailableError("a moment, please")
            return await real(namespace)

        monkeypatch.setattr(services.store.namespaces, "get_state", fail_once)
        await services.store.namespaces.set_mode("shop", Mode.EXPLICIT)
        assert (await sidecar.expect(NamespaceChanged)).state.mode is Mode.EXPLICIT
