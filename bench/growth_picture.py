"""The picture of how costs grow: one small plot an axis, cost over number, both logarithmic. Needs matplotlib.

Belongs here: drawing. Doesn't: measuring (``growth.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bench.errors import BenchError

_COLUMNS: Final = 3
# A cost that doubles fills a fifth of a plot: what grows is seen, and noise isn't.
_DECADES: Final = 1.5
# Numbers nearer than that would be printed over each other.
_APART: Final = 1.2
_COLOUR: Final = "#2f6f9f"


def draw(series: Sequence[tuple[str, str, Sequence[tuple[int, float]]]], path: Path) -> None:
    """Draw name, cost and points of each axis into a file, in the format that its suffix names.

    Raises:
        BenchError: matplotlib isn't installed.
        OSError: the file can't be written.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise BenchError("matplotlib isn't installed", hint="`make bench-growth` installs it") from error
    mpl.use("agg")
    # Text stays text, and the same figures give the same file.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "touchmark", "font.size": 8})
    from matplotlib.figure import Figure

    rows = -(-len(series) // _COLUMNS)
    figure = Figure(figsize=(10, 2.6 * rows), layout="constrained")
    for number, (name, cost, points) in enumerate(series):
        _draw_axis(figure.add_subplot(rows, _COLUMNS, number + 1), name, cost, points)
    date = {"Date": None} if path.suffix == ".svg" else {}
    figure.savefig(path, dpi=120, metadata=date, facecolor="white")


def _draw_axis(plot: Any, name: str, cost: str, points: Sequence[tuple[int, float]]) -> None:
    numbers, costs = [number for number, _ in points], [cost for _, cost in points]
    plot.plot(numbers, costs, marker="o", color=_COLOUR, linewidth=1.5, markersize=4)
    plot.set_xscale("log")
    plot.set_yscale("log")
    middle = (min(costs) * max(costs)) ** 0.5
    spread = max(10 ** (_DECADES / 2), (max(costs) / min(costs)) ** 0.5 * 1.3)
    plot.set_ylim(middle / spread, middle * spread)
    plot.set_title(cost, fontsize=8)
    plot.set_xlabel(name)
    plot.grid(visible=True, which="major", color="#dddddd", linewidth=0.5)
    plot.minorticks_off()
    ends = [costs[0], costs[-1]] if max(costs[0], costs[-1]) > _APART * min(costs[0], costs[-1]) else [costs[-1]]
    plot.set_yticks(ends, [f"{cost:,.0f}" if cost >= 100 else f"{cost:.3g}" for cost in ends])
    plot.set_xticks(numbers, [f"{number:,}" for number in numbers])
    for side in ("top", "right"):
        plot.spines[side].set_visible(False)
