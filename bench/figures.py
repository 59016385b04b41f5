"""Samples of single rounds and the figures that they come to: medians, spread, ratio to Envoy. Pure.

Belongs here: arithmetic on samples. Doesn't: taking them (``works.py``) or showing them (``table.py``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from enum import StrEnum
from statistics import median
from typing import Final

import msgspec

REFERENCE: Final = "envoy"


class Metric(StrEnum):
    """What is measured. ``cpu`` is that of both proxies together, from the kernel's accounting; ``rss`` likewise.

    ``rss_open`` is ``rss`` while the connections are open that are measured, and ``rss`` of that work what they added:
    less where memory that was freed before is used again.
    """

    RATE = "rate"
    LATENCY_P50 = "latency_p50"
    LATENCY_P99 = "latency_p99"
    CPU = "cpu"
    RSS = "rss"
    RSS_OPEN = "rss_open"


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One number, taken once."""

    work: str
    subject: str
    metric: Metric
    unit: str
    value: float


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """What the rounds of one run come to.

    Attributes:
        median, min, max: over the rounds; ``min`` and ``max`` show the worst round, whichever end that is.
        ratio_to_envoy: this median over Envoy's in the same run; None when Envoy wasn't measured, or measured 0.
    """

    work: str
    subject: str
    metric: Metric
    unit: str
    median: float
    min: float
    max: float
    ratio_to_envoy: float | None


def summarise(samples: Iterable[Sample]) -> list[Figure]:
    """Return one figure for each work, subject and metric, in the order in which they first appear.

    Raises:
        ValueError: two samples of one figure differ in unit, or one isn't a finite number.
    """
    groups: dict[tuple[str, str, Metric], list[Sample]] = {}
    for sample in samples:
        if not math.isfinite(sample.value):
            raise ValueError(f"{sample.work}/{sample.subject}/{sample.metric} is {sample.value}")
        groups.setdefault((sample.work, sample.subject, sample.metric), []).append(sample)
    medians = {key: median(sample.value for sample in group) for key, group in groups.items()}
    figures = []
    for (work, subject, metric), group in groups.items():
        units = {sample.unit for sample in group}
        if len(units) != 1:
            raise ValueError(f"{work}/{subject}/{metric} was measured in different units: {', '.join(sorted(units))}")
        middle = medians[work, subject, metric]
        reference = medians.get((work, REFERENCE, metric))
        figures.append(
            Figure(
                work=work,
                subject=subject,
                metric=metric,
                unit=units.pop(),
                median=middle,
                min=min(sample.value for sample in group),
                max=max(sample.value for sample in group),
                ratio_to_envoy=middle / reference if reference else None,
            )
        )
    return figures


def percentile(values: Sequence[float], fraction: float) -> float:
    """Return the nearest-rank percentile: the smallest value that at least ``fraction`` (0 to 1) of all don't exceed.

    Raises:
        ValueError: there are no values, or ``fraction`` is outside 0 to 1.
    """
    if not values:
        raise ValueError("no values")
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction {fraction} is outside 0 to 1")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(fraction * len(ordered)) - 1)]
