"""The bench of the first moment says of each step when it began and ended, and counts what wasn't answered."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from rich.console import Console

from bench.errors import BenchError
from bench.first_moment import Burst, list_steps, main, print_steps, summarise_bursts, summarise_steps
from bench.subjects import sidecar_with_moments as noting
from bench.subjects.sidecar_with_moments import COMPUTED, STEPS, Moment, note_steps, read_moments, write_moments
from sidecar.tls import handshake
from sidecar.tls.role import Role


def moment(step: str, began: float, ended: float, *, cpu: float = 0.0) -> Moment:
    return Moment(step, began, ended, 1.0, 1.0 + cpu)


def test_steps_are_counted_from_the_first_one_of_the_burst() -> None:
    noted = {
        "client": [moment("attest", 9.0, 9.5), moment("attest", 10.0, 10.01), moment("attest", 10.02, 10.05)],
        "server": [moment(COMPUTED, 10.03, 10.04, cpu=0.008), moment(COMPUTED, 12.0, 12.5)],
    }
    attest, computed = list_steps(noted, began=9.9, ended=11.0)
    assert (attest.side, attest.name, attest.count, attest.cpu) == ("client", "attest", 2, None)
    assert (attest.first_begins, attest.takes, attest.last_ends) == pytest.approx((0.0, 20.0, 50.0))
    assert (computed.side, computed.count) == ("server", 1)
    assert computed.cpu == pytest.approx(8.0)
    assert computed.first_begins == pytest.approx(30.0)
    with pytest.raises(BenchError, match="no step"):
        list_steps(noted, began=20.0, ended=21.0)


def test_the_summary_has_medians_and_counts_a_step_that_was_seldom_taken_as_none() -> None:
    usual = {"client": [moment("attest", 1.0, 1.01)]}
    once = {"client": [moment("attest", 1.0, 1.03), moment("search", 1.0, 1.02)]}
    rounds = [list_steps(each, began=0.0, ended=2.0) for each in (usual, usual, once)]
    steps = {step.name: step for step in summarise_steps(rounds)}
    assert steps["attest"].takes == pytest.approx(10.0)
    assert steps["search"].count == 0
    console = Console(width=120, record=True)
    print_steps(console, list(steps.values()), title="here")
    assert "search" in console.export_text()
    bursts = [Burst(began=0.0, ended=1.0, seconds=(0.01, 0.03), cpu_ms=each) for each in (1.0, 2.0, 9.0)]
    assert summarise_bursts(bursts) == pytest.approx(
        {"first_ms": 10.0, "mean_ms": 20.0, "last_ms": 30.0, "cpu_ms": 2.0}
    )


async def test_each_step_is_a_function_of_the_product_and_its_moments_are_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for owner, names in STEPS.items():
        for name in names:
            assert asyncio.iscoroutinefunction(getattr(owner, name)), name
            monkeypatch.setattr(owner, name, getattr(owner, name))  # Put back at the end.
    monkeypatch.setattr(handshake, "compute", vars(handshake)["compute"])
    moments: list[Moment] = []
    note_steps(moments)
    loop = asyncio.get_running_loop()
    assert await vars(handshake)["compute"](loop, Role.INITIATOR, lambda: 7, is_first=False) == 7
    assert [each.step for each in moments] == [noting.QUEUED, noting.COMPUTED]
    write_moments(moments, tmp_path / "moments")
    assert read_moments(tmp_path / "moments") == moments


@pytest.mark.parametrize("option", ["--connections", "--rounds"])
def test_a_number_below_one_is_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([option, "0"])
    assert option in capsys.readouterr().err
