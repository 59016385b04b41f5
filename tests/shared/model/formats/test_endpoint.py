"""What formats split alike."""

from __future__ import annotations

import pytest

from shared.model.formats.endpoint import name_verdict, split_address
from tests.shared.model.formats.examples import EVERY


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("198.18.0.2:5432", ("198.18.0.2", 5432)),
        ("[2001:db8::1]:80", ("2001:db8::1", 80)),
        ("198.18.0.2", ("198.18.0.2", 0)),
        ("[2001:db8::1]", ("2001:db8::1", 0)),
        ("", ("", 0)),
    ],
)
def test_an_address_is_host_and_port(text: str, expected: tuple[str, int]) -> None:
    assert split_address(text) == expected


def test_a_verdict_is_one_of_three_words() -> None:
    assert [name_verdict(each) for each in EVERY] == ["deny", "allow", "would_deny"]
