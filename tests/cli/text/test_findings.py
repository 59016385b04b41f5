"""Findings are printed with their mark and hint; what is optional fails nothing."""

from __future__ import annotations

import pytest

from cli.text.findings import Finding, make_findings, print_findings

GOOD = Finding(subject="a", is_well=True, observation="there")
OPTIONAL = Finding(subject="b", is_well=False, observation="missing", is_optional=True)
BAD = Finding(subject="c", is_well=False, observation="broken", hint="fix it")


def test_marks_and_hints(capsys: pytest.CaptureFixture[str]) -> None:
    print_findings((GOOD, OPTIONAL, BAD))
    assert capsys.readouterr().out == "✓ a: there\n– b: missing\n✗ c: broken\n    fix it\n"


def test_a_hint_that_findings_share_one_after_the_other_stands_once(capsys: pytest.CaptureFixture[str]) -> None:
    other = Finding(subject="d", is_well=False, observation="broken too", hint="fix it")
    print_findings((BAD, other, GOOD, BAD))
    assert capsys.readouterr().out == "✗ c: broken\n✗ d: broken too\n    fix it\n✓ a: there\n✗ c: broken\n    fix it\n"


def test_all_is_well_when_every_required_check_passed() -> None:
    assert make_findings([GOOD, OPTIONAL]).is_well
    assert not make_findings([GOOD, BAD]).is_well
    assert make_findings([OPTIONAL, GOOD]).findings == [OPTIONAL, GOOD]
