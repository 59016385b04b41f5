"""Findings of ``status`` and ``doctor``: the value, and how one is printed: ✓, – or ✗, and a hint on the next line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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


def print_finding(finding: Finding) -> None:
    """Print one finding."""
    mark = "✓" if finding.is_well else "–" if finding.is_optional else "✗"
    print_line(f"{mark} {finding.subject}: {finding.observation}")
    if finding.hint:
        print_line(f"    {finding.hint}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """All findings; ``is_well``: every required check passed."""

    is_well: bool
    findings: list[Finding]


def make_findings(findings: Sequence[Finding]) -> Findings:
    """Put findings together."""
    is_well = all(finding.is_well or finding.is_optional for finding in findings)
    return Findings(is_well=is_well, findings=list(findings))
