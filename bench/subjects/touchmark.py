"""A pair of Touchmark sidecars, joined to a CA started for them: attestation, decisions and records are on.

The whole product as a user runs it: ``python -m ca``, a join token by ``touchmark ca join-token``, two ``python -m
sidecar``; decision records go to a file and to the CA. Needs no root when client, server and sidecars run as one user.
"""

from __future__ import annotations

import json
import resource
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.errors import BenchError
from bench.namespaces import server_addresses
from bench.processes import START_TIMEOUT_S, Processes, free_ports, own_python, run_tool
from bench.subjects.subject import Address, Backends, RunningSubject, address_text

_SERVER_ADDRESS: Final = "127.0.0.41"
_CLIENT_ADDRESS: Final = "127.0.0.42"
# What the sidecar demands of `ulimit -n`.
_FILES_PER_CONNECTION: Final = 4
_CLIENT_WORKLOAD: Final = "bench/client"
_SERVER_WORKLOAD: Final = "bench/server"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningCA:
    """A CA with its own data directory, started for one run."""

    listen: Address
    admin_socket: Path
    pid: int

    def write_token(self, workload: str, address: str, path: Path) -> None:
        """Have a join token made for one sidecar and written into a new file.

        Raises:
            BenchError: the CA refuses.
        """
        run_tool(
            [
                own_python(), "-m", "cli", "ca", "join-token", workload, "--address", address,
                "--admin-socket", self.admin_socket, "--output", path,
            ],
            timeout_s=START_TIMEOUT_S,
        )  # fmt: skip


def max_connections() -> int:
    """Return for how many connections the sidecars are set up: 9,500, or what the limit on open files allows."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(9500, soft // _FILES_PER_CONNECTION)


@contextmanager
def run_ca(
    directory: Path,
    *,
    database: str = "",
    name: str = "ca",
    options: Sequence[str] = (),
    address: str = "127.0.0.1",
) -> Iterator[RunningCA]:
    """Start the real CA and end it.

    Arguments:
        database: a URL of PostgreSQL; empty: SQLite.
        name: of the process; replicas of one database have a directory in common, and the key-encryption key in it.
        options: further ones of the CA's.
        address: where it listens.

    Raises:
        BenchError: it doesn't start.
    """
    (port,) = free_ports(1, address)
    admin_socket = directory / ("admin.sock" if name == "ca" else f"{name}.sock")
    with Processes(directory=directory) as processes:
        pid = processes.start(
            name,
            [
                own_python(), "-m", "ca", "--data-dir", directory / name, "--kek-file", directory / "kek",
                "--listen", f"{address}:{port}", "--admin-socket", admin_socket, *options,
            ],
            environment={"TOUCHMARK_DATABASE_URL": database} if database else None,
        )  # fmt: skip
        processes.wait_until_listening(address, port)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _answers(admin_socket):
            processes.check()
            if time.monotonic() > deadline:
                raise BenchError("the CA's admin socket didn't appear")
            time.sleep(0.05)
        yield RunningCA(listen=(address, port), admin_socket=admin_socket, pid=pid)


def _answers(path: Path) -> bool:
    """Return whether somebody listens on a Unix socket: between its making and that is a moment."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


@contextmanager
def run_touchmark(directory: Path, backends: Backends) -> Iterator[RunningSubject]:
    """Start CA and pair, and end them.

    Raises:
        BenchError: a part doesn't start.
    """
    with _run_pair(directory, backends, ["-m", "sidecar"]) as subject:
        yield subject


@contextmanager
def run_touchmark_python(directory: Path, backends: Backends) -> Iterator[RunningSubject]:
    """Start the same with no byte moved by the compiled loop.

    Raises:
        BenchError: a part doesn't start.
    """
    with _run_pair(directory, backends, ["-m", "sidecar", "--engine", "python"]) as subject:
        yield subject


@contextmanager
def run_touchmark_no_reuse(directory: Path, backends: Backends) -> Iterator[RunningSubject]:
    """Start the same with no tunnel used twice.

    Raises:
        BenchError: a part doesn't start.
    """
    with _run_pair(directory, backends, ["-m", "bench.subjects.sidecar_without_reuse"]) as subject:
        yield subject


@contextmanager
def run_touchmark_python_no_reuse(directory: Path, backends: Backends) -> Iterator[RunningSubject]:
    """Start the same with neither.

    Raises:
        BenchError: a part doesn't start.
    """
    with _run_pair(
        directory, backends, ["-m", "bench.subjects.sidecar_without_reuse", "--engine", "python"]
    ) as subject:
        yield subject


@contextmanager
def run_touchmark_noting_moments(directory: Path, backends: Backends) -> Iterator[RunningSubject]:
    """Start the same with each step's begin and end noted: ``sidecar_with_moments.py``.

    Raises:
        BenchError: a part doesn't start.
    """
    with _run_pair(directory, backends, ["-m", "bench.subjects.sidecar_with_moments"]) as subject:
        yield subject


@contextmanager
def run_touchmark_sampled(directory: Path, backends: Backends, *, reuses: bool) -> Iterator[RunningSubject]:
    """Start the same with its processor time divided among its steps: ``sidecar_with_samples.py``.

    Raises:
        BenchError: a part doesn't start.
    """
    options = [] if reuses else ["--no-reuse"]
    with _run_pair(directory, backends, ["-m", "bench.subjects.sidecar_with_samples", *options]) as subject:
        yield subject


@contextmanager
def _run_pair(directory: Path, backends: Backends, sidecar: Sequence[str]) -> Iterator[RunningSubject]:
    http_in, sink_in = (("127.0.0.1", port) for port in free_ports(2))
    network = backends.network
    ca_address, client_address, server_address = (
        ("127.0.0.1", _CLIENT_ADDRESS, _SERVER_ADDRESS)
        if network is None
        else (network.client, network.client, network.server)
    )
    (_, server_tunnel), *served = server_addresses(network, 3, otherwise=server_address)
    http_served, sink_served = map(address_text, served)
    (client_tunnel,) = free_ports(1, client_address)
    server = {
        "capture": "listeners",
        "tunnel": {"addresses": [server_address], "port": server_tunnel},
        "inbound": [
            {"listen": http_served, "application": address_text(backends.http)},
            {"listen": sink_served, "application": address_text(backends.sink)},
        ],
    }
    client = {
        "capture": "listeners",
        "tunnel": {"addresses": [client_address], "port": client_tunnel},
        "outbound": [
            {"listen": address_text(http_in), "destination": http_served},
            {"listen": address_text(sink_in), "destination": sink_served},
        ],
    }
    with run_ca(directory, address=ca_address) as ca, Processes(directory=directory) as processes:
        pids = []
        for name, workload, address, configuration, enter in (
            ("sidecar-server", _SERVER_WORKLOAD, server_address, server, backends.enter),
            ("sidecar-client", _CLIENT_WORKLOAD, client_address, client, ()),
        ):
            token = directory / f"{name}.token"
            ca.write_token(workload, address, token)
            path = directory / f"{name}.yaml"
            # JSON is YAML.
            path.write_text(
                json.dumps(
                    {
                        **configuration,
                        "tokenFile": str(token),
                        "log": {"file": str(directory / f"{name}.decisions")},
                        "limits": {"maxConnections": max_connections()},
                    }
                )
            )
            pids.append(processes.start(name, [*enter, own_python(), *sidecar, "--config", path]))
            _wait_until_ready(processes, directory / f"{name}.log", name)
        yield RunningSubject(http=http_in, sink=sink_in, pids=tuple(pids), check=processes.check)


def _wait_until_ready(processes: Processes, log: Path, name: str) -> None:
    """Wait for the event ``sidecar_ready``: the listeners are bound long before the CA has answered."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while "sidecar_ready" not in log.read_text(errors="replace"):
        processes.check()
        if time.monotonic() > deadline:
            raise BenchError(f"{name} isn't ready after {START_TIMEOUT_S:.0f} s")
        time.sleep(0.05)
