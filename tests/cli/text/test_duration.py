"""Durations are read with their units, and anything else is refused."""

from __future__ import annotations

import pytest

from cli.text.duration import format_duration, format_moment, format_time, parse_duration, parse_moment
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


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1970-01-02", 86_400),
        ("1970-01-02T01:00", 90_000),
        ("1970-01-02T01:00:00Z", 90_000),
        ("1970-01-02T01:00+01:00", 86_400),
        ("90m", 1_000_000 - 5400),
    ],
)
def test_a_moment_is_a_day_a_time_in_utc_or_how_long_ago(text: str, moment: float) -> None:
    assert parse_moment(text, now=1_000_000) == moment


def test_a_moment_that_wasnt_given_asks_for_nothing() -> None:
    assert format_moment("") == ""
    assert format_moment("1970-01-02") == "86400.0"
