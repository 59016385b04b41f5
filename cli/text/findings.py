"""Findings of ``status`` and ``doctor``: the value, and how they are printed: ✓, – or ✗, a hint on the next line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

from cli.text.output import print_line


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of one check.

    Attributes:
        is_optional: a failure narrows what can be done, but nothing is broken.
        hint: what to do; empty when there is nothing to do.
    """

    subject: str
    is_well: bool
    observation: str
    hint: str = ""
    is_optional: bool = False


def print_findings(findings: Iterable[Finding], *, write: Callable[[str], None] = print_line) -> None:
    """Print findings; a hint that several of them share, one after the other, stands once, below the last."""
    for hint, sharing in groupby(findings, key=attrgetter("hint")):
        for finding in sharing:
            mark = "✓" if finding.is_well else "–" if finding.is_optional else "✗"
            write(f"{mark} {finding.subject}: {finding.observation}")
        if hint:
            write(f"    {hint}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """All findings; ``is_well``: every required check passed."""

    is_well: bool
    findings: list[Finding]


def make_findings(findings: Sequence[Finding]) -> Findings:
    """Put findings together."""
    is_well = all(finding.is_well or finding.is_optional for finding in findings)
    return Findings(is_well=is_well, findings=list(findings))
