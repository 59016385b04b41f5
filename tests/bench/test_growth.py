"""How costs grow: the axes' small steps are measured; what this machine doesn't allow is left out and named."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bench.growth import AXES, Axis, grow, main


def test_axes_are_measured_up_to_the_step_that_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "growth.json"
    assert main(["--axes", "rules", "addresses", "--at-most", "10", "--json", str(path)]) == 0
    written = json.loads(path.read_text())
    assert [each["axis"] for each in written] == ["rules", "addresses"]
    assert [number for number, _ in written[0]["points"]] == [1, 10]
    assert all(cost > 0 for each in written for _, cost in each["points"])
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_step_that_the_machine_doesnt_allow_is_left_out_and_named() -> None:
    said: list[str] = []
    axis = Axis(name="things", cost="µs", steps=(1, 10, 100), measure=lambda step, _: step / 2, most=lambda: 10)
    assert grow(axis, at_most=sys.maxsize, say=said.append).points == [(1, 0.5), (10, 5.0)]
    assert said[-1].startswith("things 100: left out")


def test_each_axis_begins_small_and_ends_where_growth_is_promised() -> None:
    assert {axis.name: (axis.steps[0], axis.steps[-1]) for axis in AXES} == {
        "connections": (1, 9000),
        "descriptors": (10, 10_000),
        "processes": (2, 500),
        "programs": (1, 200),
        "rules": (1, 10_000),
        "addresses": (1, 100_000),
    }
