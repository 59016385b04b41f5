"""The kernel's own answers about sockets of this test."""

import os
import socket
from collections.abc import Iterator

import pytest

from sidecar.attest.netlink.kernel_sockets import KernelSockets


@pytest.fixture
def kernel() -> Iterator[KernelSockets]:
    made = KernelSockets()
    yield made
    made.close()


def test_a_connection_is_found_by_its_tuple_and_also_by_a_dump(kernel: KernelSockets) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        inode = os.fstat(client.fileno()).st_ino
        found = kernel.find(client.getsockname(), server.getsockname())
        assert found is not None
        assert found.inode == inode
        assert [each.cookie for each in kernel.list_all(client.getsockname(), server.getsockname())] == [found.cookie]


def test_an_ipv4_connection_of_an_ipv6_socket_is_found(kernel: KernelSockets) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_INET6) as client:
        client.connect(("::ffff:127.0.0.1", server.getsockname()[1]))
        found = kernel.find(("127.0.0.1", client.getsockname()[1]), server.getsockname())
        assert found is not None
        assert found.inode == os.fstat(client.fileno()).st_ino


def test_a_listener_is_no_connection(kernel: KernelSockets) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert kernel.find(server.getsockname(), ("127.0.0.1", 1)) is None
        (found,) = kernel.listeners(server.getsockname()[1])
        assert found.inode == os.fstat(server.fileno()).st_ino


def test_listeners_of_both_families_are_listed_the_same_way_without_the_older_request(kernel: KernelSockets) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_INET6) as other:
        port = server.getsockname()[1]
        other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        other.bind(("::1", port))
        other.listen()
        at_once = kernel.listeners(port)
        assert {each.inode for each in at_once} == {os.fstat(one.fileno()).st_ino for one in (server, other)}
        assert [each.is_v6only for each in at_once if ":" in each.local[0]] == [True]
        kernel._lists_at_once = False
        assert sorted(each.cookie for each in kernel.listeners(port)) == sorted(each.cookie for each in at_once)
