"""A pair of stunnels (Debian's package), a thread for each connection, mutual TLS 1.3 between them.

The cipher is AES-128-GCM as for the others. The key exchange is X25519: Debian 12's OpenSSL 3.0 has no
X25519MLKEM768. The server side checks the client's chain, not its name; session resumption is on, as it
is by default. stunnel is the only subject whose threads may use both cores.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.errors import BenchError
from bench.material import SERVER_NAME, Material, write_material
from bench.processes import Processes, free_ports
from bench.subjects.subject import Address, Backends, RunningSubject, address_text

_TLS: Final = (
    "sslVersion = TLSv1.3\nciphersuites = TLS_AES_128_GCM_SHA256\ncurves = X25519\nverifyChain = yes\n"
    "socket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\nlibwrap = no\n"
)


def stunnel_binary() -> str:
    """Return the path of stunnel.

    Raises:
        BenchError: it isn't installed.
    """
    found = shutil.which("stunnel", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/sbin:/bin")
    if found is None:
        raise BenchError("stunnel isn't installed", hint="`make bench` installs it where root and apt-get are there")
    return found


@contextmanager
def run_stunnel(directory: Path, backends: Backends) -> Iterator[RunningSubject]:
    """Start the pair, client side and server side, and end it.

    Raises:
        BenchError: stunnel isn't installed, or doesn't start.
    """
    binary = stunnel_binary()
    material = write_material(directory)
    http_in, sink_in, http_tunnel, sink_tunnel = (("127.0.0.1", port) for port in free_ports(4))
    client = configuration(material, {http_in: http_tunnel, sink_in: sink_tunnel}, is_client=True)
    server = configuration(material, {http_tunnel: backends.http, sink_tunnel: backends.sink}, is_client=False)
    with Processes(directory=directory) as processes:
        pids = []
        for name, text in (("stunnel-server", server), ("stunnel-client", client)):
            path = directory / f"{name}.conf"
            path.write_text(text)
            pids.append(processes.start(name, [binary, path]))
        for address in (http_tunnel, sink_tunnel, http_in, sink_in):
            processes.wait_until_listening(*address)
        yield RunningSubject(http=http_in, sink=sink_in, pids=tuple(pids), check=processes.check)


def configuration(material: Material, routes: Mapping[Address, Address], *, is_client: bool) -> str:
    """Return one side's configuration: where it listens, and where each connection goes on to."""
    chain, key = (
        (material.client_chain, material.client_key) if is_client else (material.server_chain, material.server_key)
    )
    side = f"client = yes\ncheckHost = {SERVER_NAME}\nsni = {SERVER_NAME}\n" if is_client else "client = no\n"
    return "foreground = yes\npid =\ndebug = warning\n" + "".join(
        f"[route{number}]\naccept = {address_text(listen)}\nconnect = {address_text(target)}\n"
        f"cert = {chain}\nkey = {key}\nCAfile = {material.root}\n{side}{_TLS}"
        for number, (listen, target) in enumerate(routes.items())
    )
