"""A pair of HAProxies (Debian's package), TCP mode, one thread each, mutual TLS 1.3 between them.

The cipher is AES-128-GCM as for the others. The key exchange is X25519: Debian 12's OpenSSL 3.0 has no X25519MLKEM768,
which leaves HAProxy with cheaper handshakes than Touchmark and Envoy have. The server side checks the client's chain,
not its name; session resumption is on, as it is by default.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.errors import BenchError
from bench.material import SERVER_NAME, Material, write_combined, write_material
from bench.processes import Processes, free_ports
from bench.subjects.subject import Address, Backends, RunningSubject, address_text

_MAX_CONNECTIONS: Final = 8192
_SETTINGS: Final = (
    f"global\n  nbthread 1\n  maxconn {_MAX_CONNECTIONS}\n"
    "defaults\n  mode tcp\n  timeout connect 10s\n  timeout client 600s\n  timeout server 600s\n"
    f"  maxconn {_MAX_CONNECTIONS}\n"
)
_TLS: Final = "ssl-min-ver TLSv1.3 ciphersuites TLS_AES_128_GCM_SHA256"


def haproxy_binary() -> str:
    """Return the path of HAProxy.

    Raises:
        BenchError: it isn't installed.
    """
    found = shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/sbin:/bin")
    if found is None:
        raise BenchError("HAProxy isn't installed", hint="`make bench` installs it where root and apt-get are there")
    return found


@contextmanager
def run_haproxy(directory: Path, backends: Backends) -> Iterator[RunningSubject]:
    """Start the pair, client side and server side, and end it.

    Raises:
        BenchError: HAProxy isn't installed, or doesn't start.
    """
    binary = haproxy_binary()
    material = write_material(directory)
    http_in, sink_in, http_tunnel, sink_tunnel = (("127.0.0.1", port) for port in free_ports(4))
    client = client_configuration(material, directory, {http_in: http_tunnel, sink_in: sink_tunnel})
    server = server_configuration(material, directory, {http_tunnel: backends.http, sink_tunnel: backends.sink})
    with Processes(directory=directory) as processes:
        pids = []
        for name, text in (("haproxy-server", server), ("haproxy-client", client)):
            path = directory / f"{name}.cfg"
            path.write_text(text)
            # -db: stays in the foreground.
            pids.append(processes.start(name, [binary, "-db", "-f", path]))
        for address in (http_tunnel, sink_tunnel, http_in, sink_in):
            processes.wait_until_listening(*address)
        yield RunningSubject(http=http_in, sink=sink_in, pids=tuple(pids), check=processes.check)


def client_configuration(material: Material, directory: Path, routes: dict[Address, Address]) -> str:
    """Return the configuration of the side that takes plaintext and dials the other one by mutual TLS."""
    certificate = write_combined(directory / "haproxy-client.pem", material.client_chain, material.client_key)
    return _SETTINGS + "".join(
        f"listen route{number}\n  bind {address_text(listen)} backlog 4096\n"
        f"  server peer {address_text(tunnel)} ssl verify required ca-file {material.root} crt {certificate}"
        f" sni str({SERVER_NAME}) verifyhost {SERVER_NAME} {_TLS}\n"
        for number, (listen, tunnel) in enumerate(routes.items())
    )


def server_configuration(material: Material, directory: Path, routes: dict[Address, Address]) -> str:
    """Return the configuration of the side that takes mutual TLS and dials the backends."""
    certificate = write_combined(directory / "haproxy-server.pem", material.server_chain, material.server_key)
    return _SETTINGS + "".join(
        f"listen route{number}\n  bind {address_text(tunnel)} backlog 4096 ssl crt {certificate}"
        f" ca-file {material.root} verify required curves X25519 {_TLS}\n  server backend {address_text(backend)}\n"
        for number, (tunnel, backend) in enumerate(routes.items())
    )
