"""The dump of listening sockets."""

from __future__ import annotations

import socket

from sidecar.credential.listening import list_listening


def test_listeners_of_both_families_are_found_and_connected_sockets_are_not() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as four,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as six,
        socket.create_connection(four.getsockname()) as client,
    ):
        found = list_listening()
        assert four.getsockname() in found
        assert six.getsockname()[:2] in found
        assert client.getsockname() not in found
