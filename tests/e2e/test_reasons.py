"""The gate: every reason code has an end-to-end case that claims it; the claim itself is checked after each test."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from shared.model.policy.reasons import Reason


def test_every_reason_code_has_an_end_to_end_case() -> None:
    claimed = set(_find_claims())
    missing = sorted(reason.name for reason in Reason if reason.name not in claimed)
    assert not missing, f"no test below tests/e2e is marked `proves(Reason.…)` for: {', '.join(missing)}"


def test_no_case_claims_a_code_that_is_gone() -> None:
    assert set(_find_claims()) <= set(Reason.__members__)


def _find_claims() -> Iterator[str]:
    """Read the marks from the source, so that selecting tests, or lacking root, hides nothing."""
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                # Also the marks of one parameter's cases: ``pytest.param(…, marks=pytest.mark.proves(…))``.
                for mark in (each for decorator in node.decorator_list for each in ast.walk(decorator)):
                    if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.proves":
                        yield from (ast.unparse(each).removeprefix("Reason.") for each in mark.args)
