"""The strangers' bench begins handshakes with a ClientHello that a sidecar understands."""

from __future__ import annotations

from bench.strangers import make_client_hello
from sidecar.tls.client_hello import ClientHello, parse_client_hello, parse_port_name


def test_its_client_hello_names_the_port() -> None:
    hello = parse_client_hello(make_client_hello(5432))
    assert isinstance(hello, ClientHello)
    assert parse_port_name(hello.server_name) == 5432
