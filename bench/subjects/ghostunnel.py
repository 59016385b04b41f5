"""A pair of ghostunnels (Go), mutual TLS 1.3 between them; one process for each listener and side, so four in all.

Debian has no package of it, and the Go module proxy may not serve its module: build it from its public source and put
it on PATH. ``GOMAXPROCS=1`` keeps each process to one thread of Go code. The key exchange is Go's first choice,
X25519MLKEM768, and the cipher AES-128-GCM. The server side checks the client's name, the client side the server's.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.errors import BenchError
from bench.material import CLIENT_NAME, SERVER_NAME, Material, write_material
from bench.processes import Processes, free_ports
from bench.subjects.subject import Address, Backends, RunningSubject, address_text

_ONE_THREAD: Final = {"GOMAXPROCS": "1"}


def ghostunnel_binary() -> str:
    """Return the path of ghostunnel.

    Raises:
        BenchError: it isn't on PATH.
    """
    found = shutil.which("ghostunnel")
    if found is None:
        raise BenchError("ghostunnel isn't on PATH", hint="build it from its public source: `go build .` in its clone")
    return found


@contextmanager
def run_ghostunnel(directory: Path, backends: Backends) -> Iterator[RunningSubject]:
    """Start the pair, client side and server side, and end it.

    Raises:
        BenchError: ghostunnel isn't installed, or doesn't start.
    """
    binary = ghostunnel_binary()
    material = write_material(directory)
    http_in, sink_in, http_tunnel, sink_tunnel = (("127.0.0.1", port) for port in free_ports(4))
    with Processes(directory=directory) as processes:
        pids = [
            processes.start(name, [binary, *arguments], environment=_ONE_THREAD)
            for name, arguments in (
                ("ghostunnel-server-http", server_arguments(material, http_tunnel, backends.http)),
                ("ghostunnel-server-sink", server_arguments(material, sink_tunnel, backends.sink)),
                ("ghostunnel-client-http", client_arguments(material, http_in, http_tunnel)),
                ("ghostunnel-client-sink", client_arguments(material, sink_in, sink_tunnel)),
            )
        ]
        for address in (http_tunnel, sink_tunnel, http_in, sink_in):
            processes.wait_until_listening(*address)
        yield RunningSubject(http=http_in, sink=sink_in, pids=tuple(pids), check=processes.check)


def server_arguments(material: Material, tunnel: Address, backend: Address) -> list[str]:
    """Return the arguments of the side that takes mutual TLS."""
    return [
        "server", "--listen", address_text(tunnel), "--target", address_text(backend),
        "--cert", str(material.server_chain), "--key", str(material.server_key),
        "--cacert", str(material.root), "--allow-dns", CLIENT_NAME, "--quiet", "all",
    ]  # fmt: skip


def client_arguments(material: Material, listen: Address, tunnel: Address) -> list[str]:
    """Return the arguments of the side that takes plaintext."""
    return [
        "client", "--listen", address_text(listen), "--target", address_text(tunnel),
        "--cert", str(material.client_chain), "--key", str(material.client_key),
        "--cacert", str(material.root), "--override-server-name", SERVER_NAME,
        "--verify-dns", SERVER_NAME, "--quiet", "all",
    ]  # fmt: skip
