"""The pods that the end-to-end tests run in."""

from __future__ import annotations

import os

import pytest

from tests.e2e.harness.pods import Network

pytestmark = pytest.mark.needs_root


def test_pods_reach_each_other_see_only_their_own_processes_and_leave_nothing_behind() -> None:
    network = Network()
    try:
        left, right = network.add("left"), network.add("right")
        connect = "import socket,sys; socket.create_connection((sys.argv[1], 7000), 5)"
        for address in (right.address, right.address6):
            assert "ConnectionRefusedError" in left.run("python3", "-c", connect, address).stderr
        seen = [name for name in left.run("ls", "/proc").stdout.split() if name.isdigit()]
        assert len(seen) == 2, "its first process and ls"
        sleeper = left.start(["sleep", "600"])
        assert left.local_pid(sleeper.pid) > 1
    finally:
        network.close()
    with pytest.raises(ProcessLookupError):
        os.kill(sleeper.pid, 0)


def test_the_hubs_link_address_stays_whoever_joins() -> None:
    network = Network()
    try:
        hub = network.hub

        def read_address() -> str:
            return hub.run("ip", "-br", "link", "show", "bridge").stdout.split()[2]

        before = read_address()
        low = ("address", "02:00:00:00:00:01")
        for words in (("add", "low", *low, "type", "veth", "peer", "name", "end"), ("set", "low", "master", "bridge")):
            assert hub.run("ip", "link", *words).returncode == 0
        assert read_address() == before
    finally:
        network.close()
