"""A pair of small relays in Rust, one epoll thread each: what a core with rustls and aws-lc could come to at best.

Not a proxy: no attestation, decision, record, deadline or limit. Tunnels carry the same frames as the product's and are
used again; X25519MLKEM768, AES-128-GCM, both chains and names verified. ``rust/`` holds its source; building it takes
cargo, its registry and minutes, so it takes part only where it is asked for. Where tunnels aren't used again, it
resumes sessions, as Envoy does.

Run ``python -m bench.subjects.rust_floor``: what a handshake of rustls costs, full and resumed, and its memory.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final

from bench.errors import BenchError
from bench.material import Material, write_material
from bench.processes import Processes, free_ports, run_tool
from bench.subjects.subject import Address, Backends, RunningSubject, address_text

SOURCE: Final = Path(__file__).parent / "rust"
_BUILD_TIMEOUT_S: Final = 1800.0
_HANDSHAKES: Final = 1000
_HANDSHAKES_TIMEOUT_S: Final = 300.0


@cache
def build() -> Path:
    """Build the program, in a moment where nothing has changed, and return its path.

    Raises:
        BenchError: cargo isn't on PATH, or fails.
    """
    cargo = shutil.which("cargo")
    if cargo is None:
        raise BenchError("cargo isn't on PATH", hint="Debian 12: apt-get install cargo-web")
    target = SOURCE / "target"
    run_tool(
        [
            cargo, "build", "--release", "--locked", "--quiet",
            "--manifest-path", SOURCE / "Cargo.toml", "--target-dir", target,
        ],
        timeout_s=_BUILD_TIMEOUT_S,
    )  # fmt: skip
    return target / "release" / "rust-floor"


@contextmanager
def run_rust_floor(directory: Path, backends: Backends) -> Iterator[RunningSubject]:
    """Build and start the pair, client side and server side, and end it.

    Raises:
        BenchError: it can't be built, or doesn't start.
    """
    with _run_pair(directory, backends, reuses=True) as subject:
        yield subject


@contextmanager
def run_rust_floor_no_reuse(directory: Path, backends: Backends) -> Iterator[RunningSubject]:
    """Start the same with no tunnel used twice.

    Raises:
        BenchError: it can't be built, or doesn't start.
    """
    with _run_pair(directory, backends, reuses=False) as subject:
        yield subject


@contextmanager
def _run_pair(directory: Path, backends: Backends, *, reuses: bool) -> Iterator[RunningSubject]:
    binary = build()
    material = write_material(directory)
    http_in, sink_in, http_tunnel, sink_tunnel = (("127.0.0.1", port) for port in free_ports(4))
    server = {http_tunnel: backends.http, sink_tunnel: backends.sink}
    client = {http_in: http_tunnel, sink_in: sink_tunnel}
    with Processes(directory=directory) as processes:
        pids = [
            processes.start(f"rust-{side}", [binary, *side_arguments(side, material, routes, reuses=reuses)])
            for side, routes in (("server", server), ("client", client))
        ]
        # Whoever looks at a tunnel's port must not look like a client: the client's own connection is proof enough.
        for address in (http_in, sink_in):
            processes.wait_until_listening(*address)
        yield RunningSubject(http=http_in, sink=sink_in, pids=tuple(pids), check=processes.check)


def side_arguments(side: str, material: Material, routes: dict[Address, Address], *, reuses: bool) -> list[str]:
    """Return one side's arguments: what it presents and demands, and where each connection goes on to."""
    chain, key = (
        (material.client_chain, material.client_key)
        if side == "client"
        else (material.server_chain, material.server_key)
    )
    words = [side, str(chain), str(key), str(material.root), "again" if reuses else "once"]
    return words + [f"{address_text(listen)}={address_text(target)}" for listen, target in routes.items()]


def main() -> int:
    """Print what ``rust-floor handshakes`` measures: both ends in one thread, without sockets."""
    try:
        with tempfile.TemporaryDirectory(prefix="touchmark-bench-") as directory:
            material = write_material(Path(directory))
            client, server = ([*side_arguments(side, material, {}, reuses=True)[1:4]] for side in ("client", "server"))
            command = [str(build()), "handshakes", *client, *server, str(_HANDSHAKES)]
            print(run_tool(command, timeout_s=_HANDSHAKES_TIMEOUT_S), end="")
    except BenchError as error:
        print(f"✗ {error.message} {error.hint}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
