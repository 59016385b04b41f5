"""The two namespaces of a run: joined with each other, apart from everything else, and gone with the run."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bench.namespaces import server_addresses
from bench.subjects.subject import Network


def test_on_loopback_ports_are_the_kernels_and_in_a_namespace_each_is_given_once() -> None:
    assert {address for address, _ in server_addresses(None, 2, otherwise="127.0.0.41")} == {"127.0.0.41"}
    network = Network(client="198.18.0.1", server="198.18.0.2", enter=("nsenter",))
    given = server_addresses(network, 2) + server_addresses(network, 1)
    assert given == [("198.18.0.2", 20000), ("198.18.0.2", 20001), ("198.18.0.2", 20002)]


_RUN = """
import os, socket, subprocess, sys
from bench.namespaces import enter_network
network = enter_network()
print(os.readlink("/proc/self/ns/net"))
listening = (
    "import socket, sys; listener = socket.create_server((sys.argv[1], 0)); "
    "print(listener.getsockname()[1], flush=True); listener.accept()"
)
command = [*network.enter, sys.executable, "-c", listening, network.server]
with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
    try:
        with socket.create_connection((network.server, int(server.stdout.readline())), timeout=60) as connection:
            print(connection.getsockname()[0])
    finally:
        server.kill()
"""


@pytest.mark.needs_root
def test_a_client_reaches_what_listens_in_the_servers_namespace() -> None:
    before = os.readlink("/proc/self/ns/net")
    ended = subprocess.run(
        [sys.executable, "-c", _RUN], capture_output=True, text=True, check=False, timeout=120, stdin=subprocess.DEVNULL
    )
    assert ended.returncode == 0, ended.stderr
    namespace, source = ended.stdout.split()
    assert namespace.startswith("net:[")
    assert namespace != before
    assert source == "198.18.0.1"
    assert os.readlink("/proc/self/ns/net") == before
