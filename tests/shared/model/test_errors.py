"""Errors: one tree, stable codes, places in documents."""

from __future__ import annotations

import pytest

from shared.model import errors
from shared.model.errors import DocumentError, IdentityError, InputError, TouchmarkError, VerificationError, naming


def every_error() -> list[type[TouchmarkError]]:
    return [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, TouchmarkError)]


def test_each_error_has_its_own_code() -> None:
    codes = [each.code for each in every_error()]
    assert len(set(codes)) == len(codes) > 5


def test_exit_codes_leave_success_and_shells_alone() -> None:
    assert all(1 <= each.exit_code <= 63 for each in every_error())


@pytest.mark.parametrize(
    ("source", "line", "path", "text"),
    [
        ("p.yaml", 3, "spec.mode", "p.yaml:3 spec.mode: wrong"),
        ("p.yaml", 0, "", "p.yaml: wrong"),
        ("", 3, "", "3: wrong"),
        ("", 0, "spec", "spec: wrong"),
        ("", 0, "", "wrong"),
    ],
)
def test_a_documents_fault_says_where_it_stands(source: str, line: int, path: str, text: str) -> None:
    error = DocumentError("wrong", source=source, line=line, path=path, hint="do")
    assert (error.message, error.hint, error.line, error.path) == (text, "do", line, path)


def test_what_an_option_s_value_is_refused_for_begins_with_the_option_unless_it_is_named() -> None:
    with pytest.raises(IdentityError, match=r"^--workload: not a name$") as caught, naming("--workload"):
        raise IdentityError("not a name", hint="shop/web")
    assert caught.value.hint == "shop/web"
    for named in (InputError("--port is odd"), DocumentError("wrong", source="p.yaml")):
        with pytest.raises(InputError) as caught_as_it_was, naming("--port"):
            raise named
        assert caught_as_it_was.value is named


def test_a_failed_verification_carries_its_reason() -> None:
    assert VerificationError("no", reason="peer_expired").reason == "peer_expired"
