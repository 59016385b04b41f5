"""Dialling the CA: who answers is checked by SPIFFE ID; silence and refusals are told."""

from __future__ import annotations

import socket

import pytest

from shared.model.errors import UnavailableError, VerificationError
from sidecar.feed_dial import check_server, fetch_pinned_root


@pytest.mark.parametrize(
    "names",
    [
        (),
        (("DNS", "touchmark.test"),),
        (("URI", "spiffe://touchmark.test/ns/a/sa/b/sidecar"),),
        (("URI", "spiffe://other/touchmark/ca"),),
        (("URI", "spiffe://touchmark.test/touchmark/ca"), ("URI", "spiffe://x/y")),
    ],
)
def test_whoever_is_not_the_ca_is_refused(names: tuple[tuple[str, str], ...]) -> None:
    with pytest.raises(VerificationError):
        check_server({"subjectAltName": names}, "touchmark.test")
    check_server({"subjectAltName": (("URI", "spiffe://touchmark.test/touchmark/ca"),)}, "touchmark.test")


async def test_a_server_that_never_shakes_hands_and_one_that_is_not_there_are_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(UnavailableError):
            await fetch_pinned_root(silent.getsockname(), "0" * 64, mark=0, timeout_s=0.2)
        address = silent.getsockname()
    with pytest.raises(UnavailableError):
        await fetch_pinned_root(address, "0" * 64, mark=0, timeout_s=0.2)
