"""Dialling the CA: who answers is checked by SPIFFE ID; silence and refusals are told."""

from __future__ import annotations

import socket

import pytest

from shared.model.errors import UnavailableError, VerificationError
from sidecar.control import ca_dial as feed_dial
from sidecar.control.ca_dial import check_server, fetch_pinned_root


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


async def test_an_address_that_is_mute_does_not_take_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_dial, "_CONNECT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as mute:
        # Nobody accepts: who comes after the first ones gets no answer at all.
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(mute.getsockname())
        with pytest.raises(UnavailableError, match="can't be reached: TimeoutError"):
            await fetch_pinned_root(mute.getsockname(), "0" * 64, mark=0, timeout_s=600)
        for each in waiting:
            each.close()
