"""Findings are printed with their mark and hint; what is optional fails nothing."""

from __future__ import annotations

import msgspec
import pytest

from cli.text.findings import Finding, print_findings

GOOD = Finding(subject="a", is_well=True, observation="there")
OPTIONAL = Finding(subject="b", is_well=False, observation="missing", is_optional=True)
BAD = Finding(subject="c", is_well=False, observation="broken", hint="mend it")


def test_marks_and_hints(capsys: pytest.CaptureFixture[str]) -> None:
    assert not print_findings([GOOD, OPTIONAL, BAD], as_json=False)
    assert capsys.readouterr().out == "✓ a: there\n– b: missing\n✗ c: broken\n    mend it\n"


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert print_findings([GOOD, OPTIONAL], as_json=True)
    answer = msgspec.json.decode(capsys.readouterr().out)
    assert answer["is_well"] is True
    assert [finding["subject"] for finding in answer["findings"]] == ["a", "b"]
