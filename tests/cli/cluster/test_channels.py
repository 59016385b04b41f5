"""A forwarded port's framing, as the kubelet writes it."""

from __future__ import annotations

import pytest

from cli.cluster.channels import ForwardedPort
from cli.cluster.faults import NoCAPodError
from shared.model.errors import ProtocolError

PORT = (15081).to_bytes(2, "little")


def begin() -> ForwardedPort:
    port = ForwardedPort(15081)
    assert port.receive(b"\0" + PORT) == b""
    assert port.receive(b"\1" + PORT) == b""
    return port


def test_each_channel_begins_with_the_port_and_then_data_is_data() -> None:
    port = begin()
    assert port.receive(b"\0HTTP/1.1 200") == b"HTTP/1.1 200"
    assert port.receive(b"\0" + PORT) == PORT
    assert port.receive(b"\0") == b""
    assert port.send(b"GET") == b"\0GET"


def test_the_error_channel_s_text_is_the_error() -> None:
    port = begin()
    assert port.receive(b"\1") == b""
    with pytest.raises(NoCAPodError, match="connection refused"):
        port.receive(b"\1dial tcp 127.0.0.1:15081: connection refused")


def test_data_may_come_before_the_error_channel_begins() -> None:
    port = ForwardedPort(15081)
    port.receive(b"\0" + PORT)
    assert port.receive(b"\0x") == b"x"
    assert port.receive(b"\1" + PORT) == b""


@pytest.mark.parametrize("message", [b"", b"\2x", b"\xffx", b"\0\0\0", b"\1" + PORT + b"!", b"\0"])
def test_anything_else_is_a_broken_protocol(message: bytes) -> None:
    with pytest.raises(ProtocolError):
        ForwardedPort(15081).receive(message)
