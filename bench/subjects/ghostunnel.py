"""A pair of ghostunnels (Go), mutual TLS 1.3 between them; one process for each listener and side, so four in all.

Debian has no package of it: unless it is on PATH it is built from the module that ``go/go.mod`` pins, which takes Go
and minutes. ``GOMAXPROCS=1`` keeps each process to one thread of Go code. The key exchange is Go's first choice,
X25519MLKEM768, and the cipher AES-128-GCM. The server side checks the client's name, the client side the server's.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final

from bench.errors import BenchError
from bench.material import CLIENT_NAME, SERVER_NAME, Material, write_material
from bench.processes import REPOSITORY, Processes, free_ports, run_tool
from bench.subjects.subject import Address, Backends, RunningSubject, address_text

SOURCE: Final = Path(__file__).parent / "go"
_PACKAGE: Final = "github.com/ghostunnel/ghostunnel"
_BUILD_TIMEOUT_S: Final = 1_200.0
_ONE_THREAD: Final = {"GOMAXPROCS": "1"}


@cache
def ghostunnel_binary() -> Path:
    """Return the path of ghostunnel; build it where it isn't on PATH, in a moment where nothing has changed.

    Raises:
        BenchError: Go isn't on PATH either, or fails.
    """
    if (found := shutil.which("ghostunnel")) is not None:
        return Path(found)
    go = shutil.which("go")
    if go is None:
        raise BenchError(
            "neither ghostunnel nor Go, which builds it, is on PATH",
            hint=f"the Go that {(SOURCE / 'go.mod').relative_to(REPOSITORY)} names, or `--subjects` without ghostunnel",
        )
    binary = SOURCE / "build" / "ghostunnel"
    run_tool(
        [go, "-C", SOURCE, "build", "-mod=readonly", "-trimpath", "-o", binary, _PACKAGE],
        timeout_s=_BUILD_TIMEOUT_S,
    )
    return binary


@contextmanager
def run_ghostunnel(directory: Path, backends: Backends) -> Iterator[RunningSubject]:
    """Start the pair, client side and server side, and end it.

    Raises:
        BenchError: ghostunnel can't be had, or doesn't start.
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
