"""Join tokens: one word, read back whole, never shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.model.errors import InputError
from shared.model.trust.join_token import JoinToken, format_join_token, parse_join_token

TOKEN = JoinToken(
    token_id="t1", secret="s" * 43, ca="198.18.0.1:15443", trust_domain="td", root_pin="a" * 64, workload="shop/web"
)


def test_a_token_is_one_word_and_read_back() -> None:
    text = format_join_token(TOKEN)
    assert parse_join_token(f"\n{text} ") == TOKEN
    assert text.replace(".", "").replace("-", "").replace("_", "").isalnum()


def test_a_token_doesnt_show_its_secret() -> None:
    assert TOKEN.secret not in repr(TOKEN)
    assert TOKEN.secret not in str(TOKEN)


@given(st.integers(min_value=0), st.characters())
def test_a_damaged_token_is_refused_without_repeating_it(at: int, character: str) -> None:
    text = format_join_token(TOKEN)
    at %= len(text)
    damaged = text[:at] + character + text[at + 1 :]
    try:
        parse_join_token(damaged)
    except InputError as error:
        assert text[20:40] not in error.message + error.hint


@pytest.mark.parametrize(
    "text", ["", "touchmark1.", "touchmark1.e30", "touchmark2.x", "touchmark1.é", "touchmark1." + "A" * 5000]
)
def test_what_isnt_a_token_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_join_token(text)
