"""Writes what a soak has shown, into the page between its two marks. Pure but for the page's file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.errors import BenchError
from bench.soak.judgement import Failure, Kept, Sample, Window

BEGIN: Final = "<!-- soak: begin -->"
END: Final = "<!-- soak: end -->"


def write_report(
    *,
    command: str,
    kept: Kept,
    sums: Sequence[tuple[str, dict[str, int], int]],
    failures: Sequence[Failure],
    windows: Sequence[Window],
    samples: Sequence[Sample],
    faults: Sequence[str],
) -> str:
    """Write the report as Markdown.

    Arguments:
        sums: of each side: its name, attempts by kind, bytes that came back as they were sent.
    """
    lines = [f"`{command}`: **{'held' if not faults else 'did not hold'}**.", ""]
    lines += ["| | |", "| --- | --- |"]
    for side, attempts, verified in sums:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(attempts.items()))
        lines.append(f"| connections, {side} | {sum(attempts.values()):,}: {kinds} |")
        lines.append(f"| bytes compared, {side} | {verified:,} |")
    for what, count in Counter(window.what for window in windows).items():
        lines.append(f"| {what} | {count} times |")
    lines.append(f"| failures that this explains | {len(failures):,} |")
    lines.append(f"| connections and records of the sidecar that lives on | {kept.connected:,} and {kept.recorded:,} |")
    lines.append(f"| lost records | {kept.lost} |")
    if samples:
        memory = [each.memory_bytes / 2**20 for each in samples]
        lines.append(f"| its memory, first, middle and last | {_pick(memory)} MiB |")
        lines.append(f"| its own descriptors | {_pick([float(each.descriptors) for each in samples])} |")
    lines += ["", *(f"- {fault}" for fault in faults)] if faults else []
    return "\n".join(lines) + "\n"


def put_into_page(page: Path, report: str) -> None:
    """Replace what stands between the page's marks.

    Raises:
        BenchError: as ``split_page``.
    """
    before, after = split_page(page)
    page.write_text(f"{before}{BEGIN}\n\n{report}\n{END}{after}", encoding="utf-8")


def split_page(page: Path) -> tuple[str, str]:
    """Return what stands before and after the report's marks.

    Raises:
        BenchError: the page can't be read, or has no such marks.
    """
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise BenchError(f"can't read {page}: {error.strerror}", hint="--report takes a page that exists") from error
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise BenchError(f"{page} has no marks for the report", hint=f"put {BEGIN} and {END} there")
    return before, after


def _pick(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.0f}" for value in (values[0], values[len(values) // 2], values[-1]))
