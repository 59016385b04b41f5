"""Programs: digests in one spelling."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.model.errors import IdentityError
from shared.model.identity.program import NO_MAIN, Program, format_program, parse_program

A, B = "a" * 64, "b" * 64
digests = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)


@given(digests, st.one_of(st.just(""), st.just(NO_MAIN), digests))
def test_a_program_is_read_back_as_it_was_written(digest: str, main: str) -> None:
    program = Program(digest=digest, main=main)
    assert parse_program(format_program(program)) == program
    assert str(program) == format_program(program)


@pytest.mark.parametrize(
    ("text", "program"),
    [
        (A, Program(digest=A)),
        (f"sha256:{A.upper()}", Program(digest=A)),
        (f" sha256:{A}\n", Program(digest=A)),
        (f"sha256:{A}/main:none", Program(digest=A, main="none")),
        (f"{A}/main:{B}", Program(digest=A, main=B)),
        (f"{A}/main:sha256:{B}", Program(digest=A, main=B)),
    ],
)
def test_what_a_person_may_write(text: str, program: Program) -> None:
    assert parse_program(text) == program


@pytest.mark.parametrize(
    "text",
    ["", "sha256:", "md5:" + A, A[:-1], A + "0", f"{A}/", f"{A}/main:", f"{A}/{B}", f"{A}/main:x", f"{A}/other:{B}"],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(IdentityError):
        parse_program(text)


def test_a_program_with_a_script_is_another_program() -> None:
    assert len({Program(digest=A), Program(digest=A, main="none"), Program(digest=A, main=B)}) == 3
