"""A pair of nginx stream proxies (Debian's package), one worker process each, mutual TLS 1.3 between them.

The cipher is AES-128-GCM as for the others. The key exchange is X25519: Debian 12's OpenSSL 3.0 has no X25519MLKEM768,
which leaves nginx with cheaper handshakes than the others have; and it checks the client's chain, not its name.
nginx is also every subject's web server.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.errors import BenchError
from bench.material import SERVER_NAME, Material, write_material
from bench.processes import Processes, free_ports
from bench.subjects.subject import Address, Backends, RunningSubject, address_text

_STREAM_MODULE: Final = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
_MAX_CONNECTIONS: Final = 9900
_SCRATCH_USERS: Final = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def nginx_binary() -> str:
    """Return the path of nginx.

    Raises:
        BenchError: it isn't installed.
    """
    found = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/sbin:/bin")
    if found is None:
        raise BenchError("nginx isn't installed", hint="`make bench` installs it where root and apt-get are there")
    return found


@contextmanager
def run_nginx(directory: Path, backends: Backends) -> Iterator[RunningSubject]:
    """Start the pair, client side and server side, and end it.

    Raises:
        BenchError: nginx or its stream module isn't installed, or doesn't start.
    """
    if not _STREAM_MODULE.is_file():
        raise BenchError("nginx has no stream module here", hint="`make bench` installs libnginx-mod-stream")
    material = write_material(directory)
    http_in, sink_in, http_tunnel, sink_tunnel = (("127.0.0.1", port) for port in free_ports(4))
    client = "".join(
        _client_server(listen, tunnel, material) for listen, tunnel in ((http_in, http_tunnel), (sink_in, sink_tunnel))
    )
    server = "".join(
        _server_server(tunnel, backend, material)
        for tunnel, backend in ((http_tunnel, backends.http), (sink_tunnel, backends.sink))
    )
    with Processes(directory=directory) as processes:
        pids = tuple(
            _start(processes, directory, name, f"stream {{\n{blocks}}}\n", loads_stream=True)
            for name, blocks in (("nginx-server", server), ("nginx-client", client))
        )
        for address in (http_tunnel, sink_tunnel, http_in, sink_in):
            processes.wait_until_listening(*address)
        yield RunningSubject(http=http_in, sink=sink_in, pids=pids, check=processes.check)


def start_web_server(processes: Processes, directory: Path, listen: Address) -> int:
    """Start the web server behind all subjects; it answers every request with two bytes and logs nothing."""
    # Debian's defaults lie where only root may write.
    scratch = "".join(f"{name}_temp_path scratch; " for name in _SCRATCH_USERS)
    block = (
        f"http {{ {scratch}access_log off; keepalive_requests 1000000000; keepalive_timeout 600s; "
        f"server {{ listen {address_text(listen)} backlog=4096; location / {{ return 200 'ok'; }} }} }}\n"
    )
    pid = _start(processes, directory, "web-server", block, loads_stream=False)
    processes.wait_until_listening(*listen)
    return pid


def _start(processes: Processes, directory: Path, name: str, block: str, *, loads_stream: bool) -> int:
    home = directory / name
    home.mkdir()
    configuration = home / "nginx.conf"
    configuration.write_text(
        (f"load_module {_STREAM_MODULE};\n" if loads_stream else "")
        + f"daemon off; worker_processes 1; pid {home}/pid; error_log {home}/error.log warn;\n"
        f"worker_rlimit_nofile {_MAX_CONNECTIONS * 2};\n"
        f"events {{ worker_connections {_MAX_CONNECTIONS}; }}\n{block}"
    )
    return processes.start(name, [nginx_binary(), "-c", configuration, "-p", home, "-e", home / "error.log"])


def _client_server(listen: Address, tunnel: Address, material: Material) -> str:
    return (
        f"  server {{ listen {address_text(listen)} backlog=4096; tcp_nodelay on; proxy_pass {address_text(tunnel)};\n"
        "    proxy_ssl on; proxy_ssl_protocols TLSv1.3; proxy_ssl_verify on; proxy_ssl_server_name on;\n"
        "    proxy_ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256; proxy_ssl_conf_command Groups X25519;\n"
        f"    proxy_ssl_name {SERVER_NAME}; proxy_ssl_trusted_certificate {material.root};\n"
        f"    proxy_ssl_certificate {material.client_chain}; proxy_ssl_certificate_key {material.client_key};\n"
        "  }\n"
    )


def _server_server(tunnel: Address, backend: Address, material: Material) -> str:
    return (
        f"  server {{ listen {address_text(tunnel)} ssl backlog=4096; tcp_nodelay on;\n"
        f"    proxy_pass {address_text(backend)};\n"
        "    ssl_protocols TLSv1.3; ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;\n"
        "    ssl_ecdh_curve X25519; ssl_session_cache shared:SSL:4m; ssl_verify_client on;\n"
        f"    ssl_client_certificate {material.root};\n"
        f"    ssl_certificate {material.server_chain}; ssl_certificate_key {material.server_key};\n"
        "  }\n"
    )
