"""Writes what a soak has shown, as Markdown. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bench.soak.judgement import Failure, Kept, Sample, Window


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


def _pick(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.0f}" for value in (values[0], values[len(values) // 2], values[-1]))
