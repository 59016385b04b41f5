"""Replicas agree about the time, or do nothing that goes by it (``ca.distribution.database_clock``)."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ca.distribution.database_clock import MAX_OFFSET_S, SILENCE_S, DatabaseClock
from ca.metrics import Metrics
from shared.model.errors import ConflictError, UnavailableError
from shared.model.wire import admin as api
from tests.ca.founded import opened
from tests.ca.postgresql import PostgreSQL
from tests.ca.running import Admin, ShiftedClock, eventually, running_ca


@pytest.mark.parametrize("shift_s", [-600.0, 600.0, 3 * 86_400.0])
async def test_a_clock_that_is_far_off_is_measured_and_refused(tmp_path: Path, shift_s: float) -> None:
    async with opened(tmp_path / "d") as core:
        metrics = Metrics()
        clock = DatabaseClock(core.store, metrics=metrics, clock=lambda: time.time() + shift_s)
        assert clock.offset_s is None
        with pytest.raises(ConflictError, match=rf"\d+ s {'ahead of' if shift_s > 0 else 'behind'} its"):
            await clock.check()
        assert not clock.is_near
        # What the question takes on a busy machine is allowed for, and so missing.
        assert clock.offset_s == pytest.approx(shift_s, abs=120.0)
        assert f"touchmark_ca_clock_offset_seconds {clock.offset_s!r}" in metrics.render().decode()


async def test_what_the_question_itself_takes_is_no_difference(tmp_path: Path) -> None:
    """On a busy machine the answer comes after minutes."""
    began = time.time()
    moments = iter([began - 1.0, began + 900.0])
    async with opened(tmp_path / "d") as core:
        clock = DatabaseClock(core.store, metrics=Metrics(), clock=lambda: next(moments))
        await clock.check()
        assert clock.offset_s == 0.0


async def test_one_that_the_database_doesnt_answer_leads_no_more_until_it_does(tmp_path: Path) -> None:
    """It kept the Lease from replicas that weren't cut off: no policy came in force until it was back."""
    now = [0.0]
    async with opened(tmp_path / "d") as core:
        clock = DatabaseClock(core.store, metrics=Metrics(), clock=time.time, monotonic=lambda: now[0])
        await clock.measure()
        with pytest.MonkeyPatch.context() as patches:

            async def fail(**_: object) -> float:
                raise UnavailableError("no route")

            patches.setattr(core.store.replicas, "measure_offset", fail)
            for now[0], may_lead in ((5.0, True), (10.0, True), (5.0 + SILENCE_S + 1, False)):
                with pytest.raises(UnavailableError):
                    await clock.measure()
                assert clock.may_lead is may_lead
            assert clock.is_near, "its clock isn't astray"
        await clock.measure()
        assert clock.may_lead


async def test_a_replica_with_another_time_doesnt_start_and_changes_nothing(
    tmp_path: Path, postgresql: PostgreSQL
) -> None:
    """By such a clock it would replace an issuer that lives, and forget distrusted certificates that still count."""
    url, fast = postgresql.url_for(tmp_path), ShiftedClock()
    async with running_ca(tmp_path, database=url) as services:
        sequence = services.authorities.bundle().sequence
        fast.shift_s = 100 * 86_400.0
        (tmp_path / "two").mkdir()
        with pytest.raises(ConflictError, match="replicas must agree about the time"):
            async with running_ca(tmp_path / "two", database=url, kek_file=tmp_path / "kek", clock=fast):
                pass
        await services.authorities.reload()
        assert services.authorities.bundle().sequence == sequence


async def test_one_whose_clock_goes_astray_takes_no_steps_until_it_is_right_again(
    tmp_path: Path, postgresql: PostgreSQL
) -> None:
    url, clock = postgresql.url_for(tmp_path), ShiftedClock()
    async with running_ca(tmp_path, database=url, clock=clock) as services, Admin(services) as admin:
        issuer = services.authorities.active.authority_id
        clock.shift_s = MAX_OFFSET_S + 60.0
        await eventually(lambda: not services.database_clock.is_near)
        status = await admin.get("/v1/status", api.CAStatus)
        assert status.clock_offset_s is not None and status.clock_offset_s > MAX_OFFSET_S
        clock.shift_s = 80 * 86_400.0  # The issuer's successor would be prepared, and soon forced.
        services.rotation.poke()
        await services.database_clock.measure()
        await services.rotation._authorities.reload()
        assert (await admin.get("/v1/rotation", api.RotationStatus)).step == "none"
        assert services.authorities.active.authority_id == issuer
        clock.shift_s = 0.0
        await eventually(lambda: services.database_clock.is_near)
