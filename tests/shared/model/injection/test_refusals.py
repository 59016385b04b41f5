from __future__ import annotations

from pathlib import Path

import pytest

from shared.model.errors import RefusedError
from shared.model.injection.refusals import HINTS, InjectionRefusal, InjectionRefusedError
from shared.model.injection.settings import KNOWN
from shared.model.kubernetes.contract import INJECTED

PAGE = (Path(__file__).parents[4] / "docs/reference/injection.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("refusal", InjectionRefusal, ids=str)
def test_each_code_says_what_to_do(refusal: InjectionRefusal) -> None:
    assert HINTS[refusal]
    assert HINTS[refusal][-1] not in ".;"


def test_a_refusal_is_one_line_with_code_place_message_and_hint() -> None:
    error = InjectionRefusedError(InjectionRefusal.HOST_PID, "it sees all", path="spec.hostPID", hint="don't")
    assert error.describe() == "host_pid: spec.hostPID: it sees all (hint: don't)"
    assert isinstance(error, RefusedError)
    assert (error.path, error.refusal) == ("spec.hostPID", InjectionRefusal.HOST_PID)


def test_without_a_hint_of_its_own_it_has_the_codes() -> None:
    assert InjectionRefusedError(InjectionRefusal.PROC_MOUNT, "no").hint == HINTS[InjectionRefusal.PROC_MOUNT]


@pytest.mark.parametrize("refusal", InjectionRefusal, ids=str)
def test_each_code_is_on_the_page(refusal: InjectionRefusal) -> None:
    assert f"`{refusal}`" in PAGE


@pytest.mark.parametrize("annotation", sorted(set(KNOWN) - {INJECTED}))
def test_each_annotation_is_on_the_page(annotation: str) -> None:
    assert f"| `{annotation}` |" in PAGE
