"""Printing findings: ✓, – or ✗, what was seen, and a hint on the next line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cli.text.output import print_json, print_line

if TYPE_CHECKING:
    from cli.machine.machine import Finding


def print_finding(finding: Finding) -> None:
    """Print one finding."""
    mark = "✓" if finding.is_well else "–" if finding.is_optional else "✗"
    print_line(f"{mark} {finding.subject}: {finding.observation}")
    if finding.hint:
        print_line(f"    {finding.hint}")


def print_findings(findings: Sequence[Finding], *, as_json: bool) -> bool:
    """Print all findings and return whether everything that is needed is well."""
    is_well = all(finding.is_well or finding.is_optional for finding in findings)
    if as_json:
        print_json({"is_well": is_well, "findings": findings})
    for finding in findings if not as_json else ():
        print_finding(finding)
    return is_well
