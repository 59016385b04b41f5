"""The comparison as Markdown, for the docs: the machine and the command, each figure, and what was aimed at. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


TARGETS: Final = (
    _Target(work="bulk", metric=Metric.RATE, must=0.95, aim=1.2),
    _Target(work="bulk", metric=Metric.CPU, must=1.1, aim=0.9),
    _Target(work="small_requests", metric=Metric.RATE, must=1.05, aim=1.3),
    _Target(work="small_requests", metric=Metric.CPU, must=1.1, aim=0.9),
    _Target(work="small_requests", metric=Metric.LATENCY_P99, must=1.5, aim=1.0),
    _Target(work="small_requests_again", metric=Metric.LATENCY_P99, must=1.5, aim=1.0),
    _Target(work="new_connections", metric=Metric.RATE, must=2.2, aim=3.0),
    _Target(work="new_connections", metric=Metric.CPU, must=0.5, aim=0.35),
    _Target(work="new_connections", metric=Metric.LATENCY_P99, must=1.0, aim=0.8),
    _Target(work="new_connections_no_reuse", metric=Metric.CPU, must=1.6, aim=1.2),
    _Target(work="first_byte", metric=Metric.LATENCY_P50, must=0.6, aim=0.5),
    _Target(work="first_byte", metric=Metric.CPU, must=0.6, aim=0.4),
    _Target(work="memory_idle", metric=Metric.RSS, must=0.65, aim=0.6),
    _Target(work="memory_per_connection", metric=Metric.RSS, must=1.2, aim=1.0),
)
# The works in words, and what a missed target is bound by: the page has this table first, for who has five minutes.
_SAYS: Final = {
    "bulk": "bulk over one connection",
    "small_requests": "small requests on 32 open connections",
    "small_requests_again": "the same by a program that comes again",
    "new_connections": "new connections, 32 clients at once",
    "new_connections_no_reuse": "new connections, a handshake for each",
    "first_byte": "a new connection's first byte",
    "memory_idle": "memory of an idle pair",
    "memory_per_connection": "memory of an open connection",
}
_BOUND_BY: Final = {
    "bulk": "[the kernel and AES-GCM](performance-sidecar.md#where-the-time-goes)",
    "small_requests": "[the kernel, a new program's first moment](performance-sidecar.md#the-first-moment)",
    "small_requests_again": "[the kernel](performance-sidecar.md#the-first-moment)",
    "new_connections": "[attestation, the interpreter](performance-sidecar.md#where-the-time-goes)",
    "new_connections_no_reuse": "[OpenSSL's handshakes](performance-sidecar.md#full-handshakes)",
    "first_byte": "[attestation, the interpreter](performance-sidecar.md#where-the-time-goes)",
    "memory_idle": "[what a sidecar imports](performance-sidecar.md#memory)",
    "memory_per_connection": "[OpenSSL's part of it](performance-sidecar.md#memory)",
}
# Resident memory is a work of its own; after the others it says how much was touched on the way.
_MEMORY_WORKS: Final = frozenset({"memory_idle", "memory_per_connection"})


def write_markdown(figures: Sequence[Figure], *, command: str, when: str, interpreter: str) -> str:
    """Return the tables: what was aimed at beside Envoy, in words; then each subject, median (lowest and highest).

    Arguments:
        interpreter: which Python the sidecars ran on.
    """
    subjects = list(dict.fromkeys(figure.subject for figure in figures))
    by_key = {(figure.work, figure.metric, figure.subject): figure for figure in figures}
    lines = [f"`{command}`, {when}, {interpreter}.", ""]
    rows = [row for target in TARGETS if (row := _judge(target, by_key))]
    if rows:
        headings = ("Both proxies together", "Metric", "Touchmark", "Envoy", "ratio", "must · aim", "")
        lines += [_row(*headings), _row(*["---"] * len(headings)), *rows, ""]
    lines += ["Every subject: median (lowest and highest round).", ""]
    lines.append(_row("Work", "Metric", *subjects, f"{_SUBJECT} ÷ {REFERENCE}"))
    lines.append(_row(*["---"] * (len(subjects) + 3)))
    for work, metric in dict.fromkeys((figure.work, figure.metric) for figure in figures):
        if metric is Metric.RSS and work not in _MEMORY_WORKS:
            continue
        found = [by_key.get((work, metric, subject)) for subject in subjects]
        unit = next(_unit(figure) for figure in found if figure is not None)
        cells = ["" if figure is None else _cell(figure) for figure in found]
        lines.append(_row(f"`{work}`", f"{metric.value}, {unit}", *cells, _ratio(by_key.get((work, metric, _SUBJECT)))))
    return "\n".join(lines) + "\n"


def _judge(target: _Target, by_key: Mapping[tuple[str, Metric, str], Figure]) -> str | None:
    """Return the target's row, or None where Envoy or the work wasn't measured."""
    ours = by_key.get((target.work, target.metric, _SUBJECT))
    theirs = by_key.get((target.work, target.metric, REFERENCE))
    if ours is None or theirs is None or ours.ratio_to_envoy is None:
        return None
    sign = "≥" if target.metric is Metric.RATE else "≤"
    return _row(
        _SAYS[target.work],
        f"{target.metric.value.replace('_', ' ')}, {_unit(ours)}",
        number(ours.median),
        number(theirs.median),
        f"**{_ratio(ours)}**",
        f"{sign} {target.must:g} · {target.aim:g}",
        "met" if target.is_met(ours.ratio_to_envoy) else f"missed: {_BOUND_BY[target.work]}",
    )


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _unit(figure: Figure) -> str:
    return figure.unit.replace("us/", "µs/")


def _cell(figure: Figure) -> str:
    return f"{number(figure.median)} ({number(figure.min)}–{number(figure.max)})"


def _ratio(figure: Figure | None) -> str:
    return "" if figure is None or figure.ratio_to_envoy is None else f"{figure.ratio_to_envoy:.2f}"
