"""Durations are read with their units, and anything else is refused."""

from __future__ import annotations

import pytest

from cli.text.duration import format_duration, format_time, parse_duration
from shared.model.errors import InputError


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("1.5h", 5400), ("7d", 604_800)])
def test_a_duration_is_read_in_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-1h", "1y", "yesterday", "1h30m"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_duration(text)


def test_people_read_the_largest_unit_and_utc() -> None:
    assert [format_duration(each) for each in (5, 90, 7200, 200_000)] == ["5 s", "2 min", "2 h", "2 d"]
    assert format_time(0) == "-"
    assert format_time(86_400) == "1970-01-02 00:00:00Z"
