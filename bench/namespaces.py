"""Network namespaces for a run: one for clients and client sides, one for server sides and backends, joined by a pair.

For subjects whose two sides can't share one, since their ports are fixed. Takes root, iproute2 and nsenter (of
util-linux); what it makes ends with this process. Does I/O.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

from bench.errors import BenchError
from bench.processes import free_ports, run_tool
from bench.subjects.subject import Address, Network

_CLONE_NEWNET: Final = 0x40000000
_CLIENT: Final = "198.18.0.1"
_SERVER: Final = "198.18.0.2"
# About as loopback's, on which pairs without namespaces meet; a pair of interfaces can't have more.
_MTU: Final = "65535"
_TOOL_TIMEOUT_S: Final = 30.0


def enter_network() -> Network:
    """Move this process, and what it starts from now on, into a new network namespace, joined to another new one.

    Raises:
        BenchError: that takes root, or a tool that isn't there.
    """
    _leave_network()
    # Held open until this process ends, and with it the namespace.
    servers = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    path = f"/proc/{os.getpid()}/fd/{servers}"
    network = Network(client=_CLIENT, server=_SERVER, enter=("nsenter", f"--net={path}"))
    run("ip", "link", "set", "lo", "up")
    _leave_network()
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "servers", "mtu", _MTU, "type", "veth", "peer", "name", "clients", "mtu", _MTU)
    run("ip", "link", "set", "clients", "netns", path)
    run("ip", "address", "add", f"{_CLIENT}/30", "dev", "servers")
    run("ip", "link", "set", "servers", "up")
    run(*network.enter, "ip", "address", "add", f"{_SERVER}/30", "dev", "clients")
    run(*network.enter, "ip", "link", "set", "clients", "up")
    return network


def server_addresses(network: Network | None, count: int, *, otherwise: str = "127.0.0.1") -> list[Address]:
    """Return ``count`` free addresses for server sides or backends, on ``otherwise`` where there is no such network."""
    if network is None:
        return [(otherwise, port) for port in free_ports(count, otherwise)]
    return [(network.server, next(network.ports)) for _ in range(count)]


def run(*command: str) -> None:
    """Run a tool that changes the network.

    Raises:
        BenchError: it can't be started, or fails.
    """
    run_tool(command, timeout_s=_TOOL_TIMEOUT_S)


def _leave_network() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise BenchError(f"no network namespace: {reason}", hint="run as root, or without --namespaces")
