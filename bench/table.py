"""The figures as a table for people. Writes to the terminal and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from bench.figures import Figure


def print_table(console: Console, figures: Sequence[Figure], *, rounds: int) -> None:
    """Print one row a figure, with a line between works."""
    table = Table(title=f"medians of {rounds} round(s); CPU and memory are those of both proxies together")
    for heading in ("work", "metric", "subject"):
        table.add_column(heading)
    for heading in ("median", "min", "max", "unit", "ratio to Envoy"):
        table.add_column(heading, justify="left" if heading == "unit" else "right")
    ordered = sorted(enumerate(figures), key=lambda pair: (_first(figures, pair[1]), pair[0]))
    previous = None
    for _, figure in ordered:
        if previous is not None and previous != figure.work:
            table.add_section()
        previous = figure.work
        ratio = "" if figure.ratio_to_envoy is None else f"{figure.ratio_to_envoy:.2f}"
        table.add_row(
            figure.work,
            figure.metric.value,
            figure.subject,
            number(figure.median),
            number(figure.min),
            number(figure.max),
            figure.unit,
            ratio,
        )
    console.print(table)


def _first(figures: Sequence[Figure], figure: Figure) -> tuple[int, int]:
    work = next(index for index, other in enumerate(figures) if other.work == figure.work)
    metric = next(index for index, other in enumerate(figures) if other.metric == figure.metric)
    return work, metric


def number(value: float) -> str:
    """Return three digits of it, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
