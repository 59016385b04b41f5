"""The network that the end-to-end tests run in."""

import pytest

from tests.e2e.network import network


@pytest.mark.needs_root
def test_two_hosts_reach_each_other_and_leave_nothing_behind() -> None:
    connect = "import socket,sys; socket.create_connection((sys.argv[1], 7000), 5)"
    with network(["198.18.7.1", "198.18.7.2"]) as (left, right):
        refused = left.run("python3", "-c", connect, right.address)
        assert "ConnectionRefusedError" in refused.stderr
    assert left.run("true").returncode != 0
