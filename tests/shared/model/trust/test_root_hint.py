"""A client says by the TLS server name which roots it knows; whatever else it says means nothing."""

from __future__ import annotations

import pytest
from cryptography import x509

from shared.model.trust.root_hint import MAX_HINTED, format_root_hint, is_hinted, parse_root_hint

A, B = "a1" * 32, "b2" * 32


def test_what_is_written_is_read() -> None:
    hints = parse_root_hint(format_root_hint([A, B]))
    assert is_hinted(A, hints) and is_hinted(B, hints)
    assert not is_hinted("c3" * 32, hints)


def test_of_many_roots_the_newest_are_named_in_a_name_that_dns_would_take() -> None:
    pins = [f"{number:064x}"[::-1] for number in range(1, 40)]
    name = format_root_hint(pins)
    assert len(name) <= 253 and max(map(len, name.split("."))) <= 63
    x509.DNSName(name)
    hints = parse_root_hint(name)
    assert len(hints) == MAX_HINTED
    assert is_hinted(pins[-1], hints) and not is_hinted(pins[0], hints)


@pytest.mark.parametrize(
    "name",
    [
        None,
        "",
        "touchmark-ca.touchmark-system.svc",
        ".roots.touchmark.invalid",
        "roots.touchmark.invalid",
        f"{A}.roots.touchmark.invalid",
        f"{A[:31]}.roots.touchmark.invalid",
        f"{A[:32].upper()}.roots.touchmark.invalid",
        f"{A[:32]}.roots.touchmark.example",
    ],
)
def test_other_names_say_nothing(name: str | None) -> None:
    assert parse_root_hint(name) == ()
