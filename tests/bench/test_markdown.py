"""The comparison as Markdown."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from bench.figures import Figure, Metric, Sample, summarise
from bench.markdown import TARGETS, write_markdown


def figures(*values: tuple[str, Metric, str, float, float]) -> list[Figure]:
    samples = [
        Sample(work=work, subject=subject, metric=metric, unit=unit, value=value)
        for work, metric, unit, *pair in values
        for subject, value in zip(("touchmark", "envoy"), pair, strict=True)
    ]
    return summarise(samples)


def test_each_figure_and_each_target_is_a_row() -> None:
    text = write_markdown(
        figures(
            ("bulk", Metric.RATE, "MB/s", 900, 1000),
            ("bulk", Metric.CPU, "us/MiB", 110, 100),
            ("bulk", Metric.RSS, "MiB", 1, 1),
            ("memory_idle", Metric.RSS, "MiB", 60, 100),
        ),
        command="python -m bench",
        when="1 May 2026",
        interpreter="Python 3.11.2, built with profiles",
    )
    assert text.startswith("`python -m bench`, 1 May 2026, Python 3.11.2, built with profiles.\n")
    assert "| `bulk` | rate, MB/s | 900 (900–900) | 1,000 (1,000–1,000) | 0.90 |" in text
    assert "| bulk over one connection | rate, MB/s | 900 | 1,000 | **0.90** | ≥ 0.95 · 1.2 | missed: [" in text
    assert "| bulk over one connection | cpu, µs/MiB | 110 | 100 | **1.10** | ≤ 1.1 · 0.9 | met |" in text
    assert "| memory of an idle pair | rss, MiB | 60 | 100 | **0.60** | ≤ 0.65 · 0.6 | met |" in text
    assert text.index("must · aim") < text.index("Every subject"), "what a hurried reader wants comes first"
    assert "µs/MiB" in text
    assert text.count("rss") == 2, "memory is shown where it was the work"


def test_without_envoy_there_is_no_ratio_and_no_target() -> None:
    alone = [
        msgspec.structs.replace(figure, ratio_to_envoy=None)
        for figure in figures(("bulk", Metric.RATE, "MB/s", 1, 2))
        if figure.subject == "touchmark"
    ]
    text = write_markdown(alone, command="c", when="w", interpreter="i")
    assert "missed" not in text
    assert "| `bulk` | rate, MB/s | 1 (1–1) |  |" in text


def test_each_target_has_words_and_says_where_its_bound_is_shown() -> None:
    """The page's first table: a target that is missed leads to a heading that exists."""
    docs = Path(__file__).parents[2] / "docs/explanation"
    works = dict.fromkeys((target.work, target.metric) for target in TARGETS)
    text = write_markdown(
        figures(*((work, metric, "x", 1 if metric is Metric.RATE else 100, 10) for work, metric in works)),
        command="c",
        when="w",
        interpreter="i",
    )
    bounds = re.findall(r"missed: \[[^]]+\]\(([^)#]+)#([^)]+)\) \|$", text, re.MULTILINE)
    assert len(bounds) == len(TARGETS)
    for page, anchor in set(bounds):
        headings = re.findall(r"(?m)^#+ (.+)$", (docs / page).read_text(encoding="utf-8"))
        assert anchor in {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
