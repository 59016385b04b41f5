"""The kernel's own answers about sockets of this test."""

import ctypes
import errno
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from sidecar.attest.netlink import kernel_sockets
from sidecar.attest.netlink.kernel_sockets import KernelSockets
from sidecar.attest.netlink.sock_diag import ESTABLISHED, NetlinkError
from sidecar.sockets.address import Endpoint
from tests.sidecar.attest.twins import open_twins

pytestmark = pytest.mark.usefixtures("engine")

_CLONE_NEWNET = 0x40000000


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


@pytest.mark.parametrize(
    ("host", "first", "second"),
    [
        ("127.0.0.1", socket.AF_INET, socket.AF_INET),
        ("::1", socket.AF_INET6, socket.AF_INET6),
        ("127.0.0.1", socket.AF_INET6, socket.AF_INET),
        ("127.0.0.1", socket.AF_INET, socket.AF_INET6),
    ],
    ids=["IPv4", "IPv6", "v4-mapped first", "v4-mapped second"],
)
def test_of_two_sockets_with_one_tuple_the_unbound_one_is_found_and_bound_ones_are_all_listed(
    kernel: KernelSockets, host: str, first: int, second: int
) -> None:
    """The one that is bound to a device keeps its tuple; what answers the connection reaches the other one."""
    with open_twins(host, first, second) as twins:
        inodes = {os.fstat(each.fileno()).st_ino for each in (twins.first, twins.second)}
        found = kernel.find(twins.source, twins.destination)
        assert found is not None
        assert (found.inode, found.state) == (os.fstat(twins.second.fileno()).st_ino, ESTABLISHED)
        assert {each.inode for each in kernel.list_all(twins.source, twins.destination)} == inodes
        twins.second.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
        assert kernel.find(twins.source, twins.destination) is None
        assert {each.inode for each in kernel.list_all(twins.source, twins.destination)} == inodes


def test_an_unbound_socket_keeps_its_tuple_to_itself(kernel: KernelSockets) -> None:
    """Neither SO_REUSEPORT nor a device gives another socket the tuple of one that isn't bound to a device."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        clients = [socket.socket() for _ in range(3)]
        for client in clients:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        clients[0].bind(("127.0.0.1", 0))
        clients[0].connect(server.getsockname())
        clients[2].setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
        for client in clients[1:]:
            client.bind(clients[0].getsockname())
            with pytest.raises(OSError, match=os.strerror(errno.EADDRNOTAVAIL)):
                client.connect(server.getsockname())
        found = kernel.find(clients[0].getsockname(), server.getsockname())
        assert found is not None
        assert found.inode == os.fstat(clients[0].fileno()).st_ino
        assert len(kernel.list_all(clients[0].getsockname(), server.getsockname())) == 1
        for client in clients:
            client.close()


@pytest.mark.needs_root
def test_a_socket_of_another_network_namespace_isnt_found_though_it_has_the_same_tuple(kernel: KernelSockets) -> None:
    opened: list[socket.socket] = []
    names: list[Endpoint] = []

    def connect_elsewhere() -> None:
        assert ctypes.CDLL(None).unshare(_CLONE_NEWNET) == 0
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        server = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(server.getsockname())
        opened.extend((server, client))
        names.extend((client.getsockname(), server.getsockname()))

    thread = threading.Thread(target=connect_elsewhere)
    thread.start()
    thread.join()
    assert len(names) == 2
    assert kernel.find(*names) is None
    assert kernel.list_all(*names) == []
    for each in opened:
        each.close()


def test_what_a_socket_has_received_is_told(kernel: KernelSockets) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        accepted, _ = server.accept()
        found = kernel.find(client.getsockname(), server.getsockname())
        assert found is not None
        assert found.received == 0
        client.sendall(b"sent isn't received")
        accepted.sendall(b"12345")
        deadline = time.monotonic() + 30
        while found is None or found.received != 5:
            assert time.monotonic() < deadline
            found = kernel.find(client.getsockname(), server.getsockname())
        assert [each.received for each in kernel.list_all(client.getsockname(), server.getsockname())] == [5]
        accepted.close()


def test_a_list_that_isnt_read_to_its_end_is_none(kernel: KernelSockets, monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket that's missing may be the one that made the connection."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        monkeypatch.setattr(kernel_sockets, "_MAX_REPLIES", 1)  # Sockets are in it; that these are all is in the next.
        with pytest.raises(NetlinkError, match="hasn't said all"):
            kernel.list_all(client.getsockname(), server.getsockname())
        with pytest.raises(NetlinkError, match="hasn't said all"):
            kernel.listeners(server.getsockname()[1])
