"""The queue in the kernel, in a network namespace of its own: a ``connect()`` waits in it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from shared.model.errors import MachineError
from sidecar.capture.connect_queue import ConnectQueue

# `iptables`, because not every kernel has nftables' own statement for the queue.
WAIT = """
import select, socket, subprocess
from shared.model.errors import MachineError
from sidecar.capture.connect_queue import ConnectQueue
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
for program in ("iptables", "ip6tables"):
    rule = f"{program} -t mangle -A OUTPUT -p tcp --syn -j NFQUEUE --queue-num 7 --queue-bypass"
    subprocess.run(rule.split(), check=True)

def connect(server):
    client = socket.socket(server.family)
    client.setblocking(False)
    client.connect_ex(server.getsockname())
    return client

def is_connected(client, timeout):
    return bool(select.select([], [client], [], timeout)[1])

for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    with socket.create_server((address, 0), family=family) as server:
        with connect(server) as client:
            assert is_connected(client, 60), "nobody has the queue"
        queue = ConnectQueue(7)
        try:
            ConnectQueue(7)
        except MachineError as error:
            assert "not permitted" in error.message, error.message
        else:
            raise AssertionError("two have one queue")
        with connect(server) as client:
            assert select.select([queue], [], [], 60)[0]
            [packet] = queue.take()
            assert packet.ends == (client.getsockname()[:2], server.getsockname()[:2]), packet
            assert not is_connected(client, 0)
            assert queue.take() is None
            queue.let_pass(packet)
            assert is_connected(client, 60)
            queue.let_pass(packet)  # It has gone already: the kernel says so, which is no fault.
            assert queue.take() in ([], None)
        queue.close()
        queue.let_pass(packet)
        with connect(server) as client:
            assert is_connected(client, 60), "nobody has the queue any more"
print("done")
"""


@pytest.mark.needs_root
def test_a_connection_waits_until_it_is_let_pass_and_only_while_somebody_has_the_queue() -> None:
    done = subprocess.run(["unshare", "-n", sys.executable, "-c", WAIT], capture_output=True, text=True, check=False)
    assert done.stdout == "done\n", done.stderr


@pytest.mark.needs_root
def test_without_the_right_to_it_there_is_none() -> None:
    code = "from sidecar.capture.connect_queue import ConnectQueue; ConnectQueue(7)"
    command = [
        "unshare",
        "-n",
        "setpriv",
        "--bounding-set=-net_admin",
        "--inh-caps=-net_admin",
        sys.executable,
        "-c",
        code,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Operation not permitted" in done.stderr
    assert "MachineError" in done.stderr


def test_the_error_says_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(93, "Protocol not supported")

    monkeypatch.setattr("sidecar.capture.connect_queue.socket.socket", refuse)
    with pytest.raises(MachineError, match="Protocol not supported") as refused:
        ConnectQueue(7)
    assert "NET_ADMIN" in refused.value.hint
