"""``python -m bench.strangers``: what unauthenticated handshakes cost a live connection of the same sidecar.

One connection through a pair of sidecars exchanges a small message every two milliseconds: alone; while a stranger
sends ClientHellos at a steady rate to a socket of the bench's, which shows what the load itself costs on this machine;
and while it sends them to the server's tunnel port, waits a second for the answer, for which the server has computed
keys and a signature, and leaves.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Final

from OpenSSL import SSL

from bench.errors import BenchError
from bench.figures import percentile
from bench.processes import REPOSITORY, free_ports, own_python, raise_descriptor_limit
from bench.subjects.subject import Backends
from bench.subjects.touchmark import run_touchmark
from shared.model.errors import TouchmarkError
from sidecar.tls.groups import require_hybrid

_PERIOD_S: Final = 0.002
_STRANGER: Final = "127.0.0.66"
_TIMEOUT_S: Final = 30.0
_STRANGER_START_S: Final = 2.0


def make_client_hello(port: int) -> bytes:
    """Return a ClientHello for a tunnel to this port, without a certificate to follow."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_alpn_protos([b"touchmark/1"])
    require_hybrid(context)
    connection = SSL.Connection(context)
    connection.set_tlsext_host_name(f"p{port}".encode())
    connection.set_connect_state()
    try:
        connection.do_handshake()
    except SSL.WantReadError:
        return connection.bio_read(1 << 16)
    raise BenchError("a handshake without a peer")


def flood(address: str, port: int, served: int, per_s: float) -> None:
    """Begin handshakes until standard input ends; print how many were begun and how many were answered."""
    hello, counts, done = make_client_hello(served), [0, 0], threading.Event()
    threading.Thread(target=_wait_for_end, args=(done,), daemon=True).start()
    opened: list[socket.socket] = []
    started = time.perf_counter()
    while not done.is_set():
        counts[0] += 1
        try:
            connection = socket.create_connection((address, port), _TIMEOUT_S, source_address=(_STRANGER, 0))
            connection.sendall(hello)
        except ConnectionResetError:
            pass  # Refused.
        else:
            connection.setblocking(False)
            opened.append(connection)
        if len(opened) > per_s:  # A second later.
            oldest = opened.pop(0)
            with contextlib.suppress(OSError):
                counts[1] += bool(oldest.recv(16))
            oldest.close()
        time.sleep(max(0.0, started + counts[0] / per_s - time.perf_counter()))
    print(json.dumps({"begun": counts[0], "answered": counts[1], "seconds": time.perf_counter() - started}))


def _wait_for_end(done: threading.Event) -> None:
    sys.stdin.read()
    done.set()


def exchange(address: str, port: int, duration_s: float) -> list[float]:
    """Return the milliseconds of each exchange over one connection, from when it was due."""
    latencies = []
    with socket.create_connection((address, port), _TIMEOUT_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(200):
            connection.sendall(b"x")
            connection.recv(1)
        due = started = time.perf_counter()
        while due - started < duration_s:
            time.sleep(max(0.0, due - time.perf_counter()))
            connection.sendall(b"x")
            if not connection.recv(1):
                raise BenchError("the connection was closed")
            latencies.append((time.perf_counter() - due) * 1000)
            due += _PERIOD_S
    return latencies


def measure(directory: Path, *, per_s: float, duration_s: float, rounds: int) -> list[dict[str, float | str]]:
    """Return the exchange's figures, medians over rounds of all three in turn.

    Raises:
        BenchError: a part doesn't start, or the connection ended.
    """
    figures: dict[str, list[list[float]]] = {"none": [], "elsewhere": [], "here": []}
    counts: list[dict[str, float]] = []
    with (
        socket.create_server(("127.0.0.1", 0)) as backend,
        socket.create_server(("127.0.0.1", 0), backlog=1024) as elsewhere,
    ):
        threading.Thread(target=_serve, args=(backend, _echo), daemon=True).start()
        threading.Thread(target=_serve, args=(elsewhere, _answer_once), daemon=True).start()
        where = ("127.0.0.1", backend.getsockname()[1])
        (unused,) = free_ports(1)
        with run_touchmark(directory, Backends(http=where, sink=("127.0.0.1", unused))) as subject:
            server = json.loads((directory / "sidecar-server.yaml").read_text())
            here = (server["tunnel"]["addresses"][0], server["tunnel"]["port"])
            served = int(server["inbound"][0]["listen"].rpartition(":")[2])
            for _ in range(rounds):
                figures["none"].append(exchange(*subject.http, duration_s))
                for name, target in (("elsewhere", elsewhere.getsockname()), ("here", here)):
                    stranger = _start_stranger(target, served, per_s)
                    time.sleep(_STRANGER_START_S)
                    figures[name].append(exchange(*subject.http, duration_s))
                    told = json.loads(stranger.communicate("", _TIMEOUT_S)[0])
                    if name == "here":
                        counts.append(told)
            subject.check()
    begun, answered, seconds = (sum(each[name] for each in counts) for name in ("begun", "answered", "seconds"))
    return [
        {"stranger": "none", **_summarise(figures["none"])},
        {"stranger": "elsewhere", **_summarise(figures["elsewhere"])},
        {
            "stranger": "here",
            **_summarise(figures["here"]),
            "handshakes_per_s": round(begun / seconds),
            "answered_per_s": round(answered / seconds),
        },
    ]


def _summarise(rounds: list[list[float]]) -> dict[str, float]:
    return {
        f"{name}_ms": round(median(percentile(latencies, fraction) for latencies in rounds), 2)
        for name, fraction in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))
    }


def _start_stranger(tunnel: tuple[str, int], served: int, rate: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [own_python(), "-m", "bench.strangers", "--flood", tunnel[0], str(tunnel[1]), str(served), str(rate)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )


def _serve(listener: socket.socket, answer: Callable[[socket.socket], None]) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=answer, args=(connection,), daemon=True).start()


def _echo(connection: socket.socket) -> None:
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := connection.recv(4096):
            connection.sendall(data)


def _answer_once(connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):
        connection.recv(4096)
        connection.sendall(b"x" * 16)


def main(arguments: Sequence[str]) -> int:
    """Measure, print one JSON object a rate, return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.strangers")
    parser.add_argument("--rate", type=float, default=500.0, help="handshakes begun a second (default: 500)")
    parser.add_argument("--duration", type=float, default=4.0, help="seconds for each part (default: 4)")
    parser.add_argument("--rounds", type=int, default=5, help="of both parts (default: 5)")
    parser.add_argument("--flood", nargs=4, metavar=("HOST", "PORT", "SERVED", "RATE"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.flood:
        address, port, served, rate = options.flood
        flood(address, int(port), int(served), float(rate))
        return 0
    raise_descriptor_limit()
    try:
        with tempfile.TemporaryDirectory(prefix="touchmark-bench-") as directory:
            for figure in measure(
                Path(directory), per_s=options.rate, duration_s=options.duration, rounds=options.rounds
            ):
                print(json.dumps(figure))
    except TouchmarkError as error:
        print(f"✗ {error.message}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
