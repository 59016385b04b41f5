"""The comparison as Markdown, for the docs: the machine and the command, each figure, and what was aimed at. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bench.figures import REFERENCE, Figure, Metric
from bench.table import number

_SUBJECT: Final = "touchmark"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """What a ratio to Envoy must be at least, or at most, and what is aimed at."""

    work: str
    metric: Metric
    must: float
    aim: float

    def is_met(self, ratio: float) -> bool:
        return ratio >= self.must if self.metric is Metric.RATE else ratio <= self.must


_TARGETS: Final = (
    _Target(work="bulk", metric=Metric.RATE, must=0.95, aim=1.2),
    _Target(work="bulk", metric=Metric.CPU, must=1.1, aim=0.9),
    _Target(work="small_requests", metric=Metric.RATE, must=1.05, aim=1.3),
    _Target(work="small_requests", metric=Metric.CPU, must=1.1, aim=0.9),
    _Target(work="small_requests", metric=Metric.LATENCY_P99, must=1.5, aim=1.0),
    _Target(work="new_connections", metric=Metric.RATE, must=2.2, aim=3.0),
    _Target(work="new_connections", metric=Metric.CPU, must=0.5, aim=0.35),
    _Target(work="new_connections", metric=Metric.LATENCY_P99, must=1.0, aim=0.8),
    _Target(work="new_connections_no_reuse", metric=Metric.CPU, must=1.6, aim=1.2),
    _Target(work="first_byte", metric=Metric.LATENCY_P50, must=0.6, aim=0.5),
    _Target(work="first_byte", metric=Metric.CPU, must=0.6, aim=0.4),
    _Target(work="memory_idle", metric=Metric.RSS, must=0.65, aim=0.6),
    _Target(work="memory_per_connection", metric=Metric.RSS, must=1.2, aim=1.0),
)
# Resident memory is a work of its own; after the others it says how much was touched on the way.
_MEMORY_WORKS: Final = frozenset({"memory_idle", "memory_per_connection"})


def write_markdown(figures: Sequence[Figure], *, command: str, when: str, interpreter: str) -> str:
    """Return the tables: median (lowest and highest round) of each subject, then each target beside its ratio.

    Arguments:
        interpreter: which Python the sidecars ran on.
    """
    subjects = list(dict.fromkeys(figure.subject for figure in figures))
    by_key = {(figure.work, figure.metric, figure.subject): figure for figure in figures}
    lines = [f"`{command}`, {when}, {interpreter}. Median (lowest and highest round).", ""]
    lines.append(_row("Work", "Metric", *subjects, f"{_SUBJECT} ÷ {REFERENCE}"))
    lines.append(_row(*["---"] * (len(subjects) + 3)))
    for work, metric in dict.fromkeys((figure.work, figure.metric) for figure in figures):
        if metric is Metric.RSS and work not in _MEMORY_WORKS:
            continue
        found = [by_key.get((work, metric, subject)) for subject in subjects]
        unit = next(figure.unit for figure in found if figure is not None).replace("us/", "µs/")
        cells = ["" if figure is None else _cell(figure) for figure in found]
        lines.append(_row(f"`{work}`", f"{metric.value}, {unit}", *cells, _ratio(by_key.get((work, metric, _SUBJECT)))))
    lines += ["", _row("Target (ratio)", "must", "aim", "measured", ""), _row(*["---"] * 5)]
    for target in _TARGETS:
        figure = by_key.get((target.work, target.metric, _SUBJECT))
        if figure is None or figure.ratio_to_envoy is None:
            continue
        sign = "≥" if target.metric is Metric.RATE else "≤"
        verdict = "met" if target.is_met(figure.ratio_to_envoy) else "**missed**"
        wanted = (f"{sign} {target.must:g}", f"{target.aim:g}")
        lines.append(_row(f"`{target.work}`, {target.metric.value}", *wanted, _ratio(figure), verdict))
    return "\n".join(lines) + "\n"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(figure: Figure) -> str:
    return f"{number(figure.median)} ({number(figure.min)}–{number(figure.max)})"


def _ratio(figure: Figure | None) -> str:
    return "" if figure is None or figure.ratio_to_envoy is None else f"{figure.ratio_to_envoy:.2f}"
