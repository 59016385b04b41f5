"""Medians, spread and ratios of the bench."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.figures import Metric, Sample, percentile, summarise


def sample(
    subject: str, value: float, *, work: str = "bulk", metric: Metric = Metric.RATE, unit: str = "MB/s"
) -> Sample:
    return Sample(work=work, subject=subject, metric=metric, unit=unit, value=value)


def test_a_figure_is_the_median_with_the_worst_and_best_round() -> None:
    (figure,) = summarise([sample("envoy", 3), sample("envoy", 1), sample("envoy", 2)])
    assert (figure.median, figure.min, figure.max) == (2, 1, 3)


def test_the_ratio_is_that_of_medians_in_the_same_work_and_metric() -> None:
    figures = summarise(
        [
            sample("touchmark", 30),
            sample("envoy", 10),
            sample("envoy", 20),
            sample("envoy", 15),
            sample("touchmark", 5, metric=Metric.CPU, unit="us/MiB"),
        ]
    )
    ratios = {(figure.subject, figure.metric): figure.ratio_to_envoy for figure in figures}
    assert ratios == {
        ("touchmark", Metric.RATE): 2,
        ("envoy", Metric.RATE): 1,
        ("touchmark", Metric.CPU): None,
    }


def test_without_envoy_there_is_no_ratio() -> None:
    (figure,) = summarise([sample("nginx", 10)])
    assert figure.ratio_to_envoy is None


def test_a_reference_of_zero_gives_no_ratio() -> None:
    figures = summarise([sample("envoy", 0), sample("nginx", 10)])
    assert [figure.ratio_to_envoy for figure in figures] == [None, None]


def test_one_figure_has_one_unit() -> None:
    with pytest.raises(ValueError, match="different units"):
        summarise([sample("envoy", 1), sample("envoy", 1, unit="MiB/s")])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_no_sample(value: float) -> None:
    with pytest.raises(ValueError, match="envoy"):
        summarise([sample("envoy", value)])


def test_percentiles_are_nearest_ranks() -> None:
    values = [float(number) for number in range(100, 0, -1)]
    assert percentile(values, 0.5) == 50
    assert percentile(values, 0.99) == 99
    assert percentile(values, 1) == 100
    assert percentile(values, 0) == 1


@given(st.lists(st.floats(0, 1e9), min_size=1), st.floats(0, 1))
def test_at_least_the_fraction_is_within_the_percentile(values: list[float], fraction: float) -> None:
    limit = percentile(values, fraction)
    assert limit in values
    assert sum(value <= limit for value in values) >= fraction * len(values)


def test_a_percentile_needs_values_and_a_fraction() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)
    with pytest.raises(ValueError, match="outside"):
        percentile([1.0], 1.5)
