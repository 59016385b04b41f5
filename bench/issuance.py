"""``python -m bench.issuance``: certificates a second from the real CA, over its TLS WebSocket, ledger written.

Each client is one enrolled sidecar's stream, made with the sidecar's own dialling code, that asks for a program's
certificate as soon as it has the last one. Requests are signed beforehand, so that the clients cost little; they still
share the machine with the CA. Counted is what was issued, and checked against the CA's own ledger.

With ``--database`` (an empty one of PostgreSQL) several processes of the CA may share the clients.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import uvloop
from websockets.asyncio.client import ClientConnection

from bench.accounting import Usage, read_usage
from bench.errors import BenchError
from bench.figures import percentile
from bench.subjects.touchmark import RunningCA, run_ca
from cli.admin.client import AdminClient
from shared.model.errors import TouchmarkError
from shared.model.identity.program import Program
from shared.model.trust.join_token import parse_join_token
from shared.model.wire.admin import JoinTokenRequest
from shared.model.wire.messages import (
    CertificateIssued,
    CertificateRefused,
    CertificateRequest,
    Enrol,
    Registration,
    Welcome,
    decode_from_ca,
    encode_message,
)
from sidecar.control.ca_dial import fetch_pinned_root, make_context, open_stream
from sidecar.credential.credential import make_key_request

_TIMEOUT_S: Final = 20.0
# Of each client: one that asks twice with the same key is given the same answer, and no sidecar has more at once.
_REQUESTS: Final = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a run came to; ``cpu_us`` is the CA's alone, per certificate, and ``clients_cpu_us`` that of all clients."""

    rate: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    clients_cpu_us: float
    issued: int


async def measure(*cas: RunningCA, clients: int, duration_s: float, others: int = 0) -> Result:
    """Run the load against a running CA, or replicas of one in turn.

    Arguments:
        others: sidecars that were enrolled before, whose certificates aren't counted.

    Raises:
        BenchError: the CA refused or didn't answer, or its own count differs.
    """
    requests = [make_key_request().csr for _ in range(_REQUESTS)]
    async with contextlib.AsyncExitStack() as stack:
        admins = [await stack.enter_async_context(AdminClient(ca.admin_socket)) for ca in cas]
        streams = [
            await enrol(
                cas[number % len(cas)], admins[number % len(cas)], workload="bench/client", instance=f"bench-{number}"
            )
            for number in range(clients)
        ]
        before, own_before = _read_usage(cas), time.process_time()
        started = time.perf_counter()
        ask = [_ask(stream, number, requests, started + duration_s) for number, stream in enumerate(streams)]
        latencies = [latency for each in await asyncio.gather(*ask) for latency in each]
        elapsed_s = time.perf_counter() - started
        after, own_after = _read_usage(cas), time.process_time()
        for stream in streams:
            await stream.close()
        alive = (await admins[0].get_status()).certificates_alive
    counted = alive - clients - others
    if counted != len(latencies):
        raise BenchError(f"{len(latencies)} programs' certificates were received, the ledger holds {counted}")
    return Result(
        rate=len(latencies) / elapsed_s,
        p50_ms=median(latencies) * 1e3,
        p99_ms=percentile(latencies, 0.99) * 1e3,
        cpu_us=(after.cpu_us - before.cpu_us) / len(latencies),
        clients_cpu_us=(own_after - own_before) * 1e6 / len(latencies),
        issued=len(latencies),
    )


def _read_usage(cas: Sequence[RunningCA]) -> Usage:
    """Return what the CAs have used, each with its signing process, while that lives."""
    return read_usage([ca.pid for ca in cas])


async def enrol(ca: RunningCA, admin: AdminClient, *, workload: str, instance: str) -> ClientConnection:
    """Return an enrolled sidecar's stream."""
    created = await admin.create_join_token(JoinTokenRequest(workload=workload))
    token = parse_join_token(created.token)
    root = await fetch_pinned_root(ca.listen, token.root_pin, mark=0, timeout_s=_TIMEOUT_S)
    stream = await open_stream(ca.listen, make_context([root], None), token.trust_domain, mark=0, timeout_s=_TIMEOUT_S)
    registration = Registration(
        instance=instance, version="bench", addresses=(), tunnel_port=15008, capture="listeners"
    )
    first = Enrol(token=created.token, csr=make_key_request().csr, registration=registration)
    await stream.send(encode_message(first), text=True)
    answer = decode_from_ca(await receive(stream))
    if not isinstance(answer, Welcome):
        raise BenchError(f"the CA didn't welcome a client: {answer!r}")
    return stream


async def _ask(stream: ClientConnection, client: int, requests: Sequence[bytes], until: float) -> list[float]:
    program = Program(digest=f"{client:064x}")
    latencies: list[float] = []
    while (started := time.perf_counter()) < until and len(latencies) < len(requests):
        number = len(latencies)
        csr = requests[number]
        await stream.send(encode_message(CertificateRequest(request=number, csr=csr, program=program)), text=True)
        while True:
            answer = decode_from_ca(await receive(stream))
            if isinstance(answer, CertificateRefused):
                raise BenchError(f"the CA refused: {answer.reason}: {answer.message}")
            if isinstance(answer, CertificateIssued) and answer.request == number:
                break
        latencies.append(time.perf_counter() - started)
    return latencies


async def receive(stream: ClientConnection) -> bytes:
    """Return the next message."""
    async with asyncio.timeout(_TIMEOUT_S):
        data = await stream.recv()
    return data.encode() if isinstance(data, str) else data


def main(arguments: Sequence[str]) -> int:
    """Measure, print one JSON object, return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.issuance")
    parser.add_argument("--clients", type=int, default=16, help="streams (default: 16)")
    parser.add_argument("--duration", type=float, default=5.0, help="seconds (default: 5)")
    parser.add_argument("--database", default="", help="URL of an empty PostgreSQL database (default: SQLite)")
    parser.add_argument("--processes", type=int, default=1, help="of the CA, on that database (default: 1)")
    parser.add_argument("--signing-process", default="auto", help="auto (default), on or off: as the CA's option")
    options = parser.parse_args(arguments)
    if options.processes > 1 and not options.database:
        parser.error("several processes share a --database")
    try:
        with contextlib.ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="touchmark-bench-")))
            cas = [
                stack.enter_context(
                    run_ca(
                        directory,
                        database=options.database,
                        name=f"ca-{number}" if number else "ca",
                        options=["--signing-process", options.signing_process],
                    )
                )
                for number in range(options.processes)
            ]
            result = uvloop.run(measure(*cas, clients=options.clients, duration_s=options.duration))
    except (TouchmarkError, TimeoutError) as error:
        print(f"✗ {error}", file=sys.stderr)
        return 1
    print(
        json.dumps(
            {
                "clients": options.clients,
                "certificates_per_s": round(result.rate, 1),
                "latency_p50_ms": round(result.p50_ms, 2),
                "latency_p99_ms": round(result.p99_ms, 2),
                "ca_cpu_us_per_certificate": round(result.cpu_us, 1),
                "clients_cpu_us_per_certificate": round(result.clients_cpu_us, 1),
                "issued": result.issued,
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
