"""A pair of ztunnels (Rust, Istio's node proxy), each dedicated to one workload, mutual TLS 1.3 between them (HBONE).

Neither a package nor a registry has it, and building it takes a quarter of an hour of processor time: it takes part
where it is asked for and lies on PATH. It has no listening socket for applications, which are redirected to it, and its
ports are fixed: both sides have a network namespace of their own (``bench/namespaces.py``).

Certificates come from its ``FAKE_CA`` (feature ``testing``: P-256, signed by an RSA key), workloads from a file. The
server's side allows the client's identity alone. X25519MLKEM768 by ``COMPLIANCE_POLICY=pqc``; its first cipher is
AES-256-GCM, which can't be changed. One worker thread, a log line for each connection as by default.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.errors import BenchError
from bench.namespaces import run
from bench.processes import Processes
from bench.subjects.subject import Backends, Network, RunningSubject

_OUTBOUND_PORT: Final = 15001
_TUNNEL_PORT: Final = 15008
# What ztunnel marks its own connections with, so that they aren't redirected to it again.
_MARK: Final = 1337
_TABLE: Final = "bench_ztunnel"


def ztunnel_binary() -> str:
    """Return the path of ztunnel.

    Raises:
        BenchError: it isn't on PATH.
    """
    found = shutil.which("ztunnel")
    if found is None:
        raise BenchError("ztunnel isn't on PATH", hint="how it's built: docs/explanation/performance.md")
    return found


@contextmanager
def run_ztunnel(directory: Path, backends: Backends) -> Iterator[RunningSubject]:
    """Start the pair, client side and server side, and end it.

    Raises:
        BenchError: it isn't there, or doesn't start.
    """
    with _run_pair(directory, backends, {}) as subject:
        yield subject


@contextmanager
def run_ztunnel_no_reuse(directory: Path, backends: Backends) -> Iterator[RunningSubject]:
    """Start the same with a tunnel for each connection.

    Raises:
        BenchError: it isn't there, or doesn't start.
    """
    with _run_pair(directory, backends, {"POOL_MAX_STREAMS_PER_CONNECTION": "1"}) as subject:
        yield subject


@contextmanager
def _run_pair(directory: Path, backends: Backends, settings: Mapping[str, str]) -> Iterator[RunningSubject]:
    network = backends.network
    if network is None:
        raise BenchError("ztunnel runs only in network namespaces", hint="--namespaces")
    binary = ztunnel_binary()
    workloads = directory / "ztunnel-workloads.yaml"
    workloads.write_text(local_configuration(network))
    with Processes(directory=directory) as processes:
        pids = [
            processes.start(
                f"ztunnel-{side}", [*enter, binary, "proxy"], environment={**environment(side, workloads), **settings}
            )
            for side, enter in (("server", network.enter), ("client", ()))
        ]
        for address in ((network.server, _TUNNEL_PORT), ("127.0.0.1", _OUTBOUND_PORT)):
            processes.wait_until_listening(*address)
        run("nft", client_rules(backends, network))
        try:
            # Connections to the backends themselves: the rules lead them to the client's side.
            yield RunningSubject(http=backends.http, sink=backends.sink, pids=tuple(pids), check=processes.check)
        finally:
            run("nft", "delete", "table", "ip", _TABLE)


def client_rules(backends: Backends, network: Network) -> str:
    """Return the rules of the clients' namespace: connections to the backends go to ztunnel, but for its own."""
    return (
        f"table ip {_TABLE} {{\n chain out {{\n  type nat hook output priority -100;\n"
        f"  ip daddr {network.server} tcp dport {{ {backends.http[1]}, {backends.sink[1]} }} "
        f"meta mark != {_MARK} redirect to :{_OUTBOUND_PORT}\n }}\n}}\n"
    )


def local_configuration(network: Network) -> str:
    """Return what a control plane would send, as YAML: two workloads, and who may reach the server."""
    workloads = "".join(
        f"- {{uid: bench//v1/Pod/default/{side}, name: {side}, namespace: default, serviceAccount: {side}, "
        f"trustDomain: cluster.local, workloadIps: [{address}], protocol: HBONE, node: {side}, network: '', "
        "services: {}}\n"
        for side, address in (("client", network.client), ("server", network.server))
    )
    return (
        f"workloads:\n{workloads}policies:\n"
        "- {name: client-only, namespace: default, scope: Namespace, action: Allow, dryRun: false, "
        "rules: [[[{principals: [!Exact cluster.local/ns/default/sa/client]}]]]}\n"
    )


def environment(side: str, workloads: Path) -> dict[str, str]:
    """Return one side's settings."""
    return {
        "PROXY_MODE": "dedicated",
        "PROXY_WORKLOAD_INFO": f"default/{side}/{side}",
        "NODE_NAME": side,
        "LOCAL_XDS_PATH": str(workloads),
        "FAKE_CA": "true",
        "XDS_ADDRESS": "",
        "PROXY_CONFIG": "proxyMetadata: {DNS_CAPTURE: 'false'}",
        "PACKET_MARK": str(_MARK),
        "ENABLE_ORIG_SRC": "false",
        "COMPLIANCE_POLICY": "pqc",
        "ZTUNNEL_WORKER_THREADS": "1",
    }
