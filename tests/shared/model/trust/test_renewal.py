"""What a renewal key signs is unambiguous, and a nonce is exactly one."""

from __future__ import annotations

import pytest

from shared.model.errors import ProtocolError
from shared.model.trust.renewal import DEFAULT_GRACE_S, MAX_GRACE_S, describe_renewal, format_nonce, parse_nonce


def describe(**changes: bytes | str) -> bytes:
    values: dict[str, bytes | str] = {
        "nonce": b"n", "server_certificate": b"s", "trust_domain": "d", "instance": "i", "csr": b"c", "following": b"f",
    }  # fmt: skip
    return describe_renewal(**values | changes)  # type: ignore[arg-type]  # Each value has its name's type.


def test_every_part_counts_and_none_passes_for_another() -> None:
    others = [
        describe(nonce=b"x"),
        describe(server_certificate=b"x"),
        describe(trust_domain="x"),
        describe(instance="x"),
        describe(csr=b"x"),
        describe(following=b"x"),
        describe(trust_domain="di", instance=""),
        describe(csr=b"cf", following=b""),
    ]
    assert len({describe(), *others}) == 9
    assert describe() == describe()


def test_a_nonce_comes_back_as_it_was() -> None:
    assert parse_nonce(format_nonce(bytes(range(32)))) == bytes(range(32))
    for text in (None, "", "AAAA", "not base64 at all!", "é", format_nonce(bytes(33))):
        with pytest.raises(ProtocolError):
            parse_nonce(text)


def test_the_grace_is_bounded() -> None:
    assert 0 < DEFAULT_GRACE_S < MAX_GRACE_S < 30 * 86_400
