"""``python -m bench.cluster``: a CA in a cluster of many pods and Services; its memory, its start, its reaction. I/O.

A real etcd and kube-apiserver hold the objects; no kubelet runs, so that a pod is what this writes. The CA is a process
of its own. Reaction is the time from sending a change to the API server until a watching sidecar has its directory
entry; the first half of it is the API server's own, shown by a plain watch beside.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec
import uvloop
import websockets
from rich.console import Console
from rich.table import Table

from shared.model.wire.admin import ClusterStatus, JoinTokenCreated
from shared.model.wire.messages import (
    STREAM_PATH,
    DirectoryEntry,
    Enrol,
    Lookup,
    Registration,
    decode_from_ca,
    encode_message,
)
from tests.ca.kubernetes.making import IMAGE
from tests.ca.running import make_csr
from tests.kubernetes.cluster_objects import Objects, make_ca_kubeconfig
from tests.kubernetes.harness.api_server import ApiServer

NAMESPACE: Final = "bench"
AT_ONCE: Final = 24
DEADLINE_S: Final = 60.0


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="python -m bench.cluster", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pods", type=int, default=1000, help="half of them injected (default: %(default)s)")
    parser.add_argument("--services", type=int, default=200, help="each with five endpoints (default: %(default)s)")
    parser.add_argument("--changes", type=int, default=100, help="whose reaction is measured (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there")
    return parser.parse_args(arguments)


class CA:
    """A CA process."""

    def __init__(self, directory: Path, process: asyncio.subprocess.Process) -> None:
        self.directory = directory
        self.process = process

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, directory: Path, kubeconfig: Path | None) -> AsyncIterator[CA]:
        """Start one and wait until it is ready."""
        directory.mkdir(exist_ok=True)
        words = f"-m ca --data-dir {directory}/data --kek-file {directory}/kek --admin-socket {directory}/admin"
        words += " --listen 127.0.0.1:0 --log-level warning"
        environment = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}
        if kubeconfig is not None:
            words += f" --kubernetes --sidecar-image {IMAGE}"
            environment["KUBECONFIG"] = str(kubeconfig)
        process = await asyncio.create_subprocess_exec(sys.executable, *words.split(), env=environment)
        ca = cls(directory, process)
        try:
            await ca.wait_until_ready()
            yield ca
        finally:
            process.terminate()
            await process.wait()

    @contextlib.asynccontextmanager
    async def admin(self) -> AsyncIterator[aiohttp.ClientSession]:
        """Give a client of its admin socket."""
        connector = aiohttp.UnixConnector(str(self.directory / "admin"))
        async with aiohttp.ClientSession("http://ca", connector=connector) as session:
            yield session

    async def wait_until_ready(self) -> None:
        """Wait for /readyz."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                with contextlib.suppress(aiohttp.ClientError, OSError):
                    async with self.admin() as session, session.get("/readyz") as response:
                        if response.status == 200:
                            return
                await asyncio.sleep(0.02)

    async def look(self) -> ClusterStatus:
        """Ask for /v1/cluster."""
        async with self.admin() as session, session.get("/v1/cluster") as response:
            return msgspec.json.decode(await response.read(), type=ClusterStatus)

    async def make_token(self) -> JoinTokenCreated:
        """Make a join token for the watching sidecar."""
        async with self.admin() as session, session.post("/v1/join-tokens", json={"workload": "bench/w"}) as response:
            return msgspec.json.decode(await response.read(), type=JoinTokenCreated)

    def read_memory(self) -> tuple[float, float]:
        """Return resident memory now and at its most, in MiB."""
        text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        kib = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines() if line.startswith("Vm")}
        return kib["VmRSS"] / 1024, kib["VmHWM"] / 1024

    def read_cpu_s(self) -> float:
        """Return the processor time that it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def create_all(objects: Objects, pods: int, services: int) -> list[str]:
    """Create the objects, some at once; return the Services' addresses."""
    turn = asyncio.Semaphore(AT_ONCE)

    async def create_pod(number: int) -> None:
        async with turn:
            await objects.create_pod(f"pod-{number}", _address(number), injected=number % 2 == 0)

    async def create_service(number: int) -> str:
        async with turn:
            name = f"service-{number}"
            (address,) = await objects.create_service(name, [{"name": "http", "port": 80, "targetPort": "http"}])
            await _put_endpoints(objects, name, [_address(number * 5 + each) for each in range(5)])
            return address

    await objects.create_account("web")
    addresses = await asyncio.gather(*(create_service(number) for number in range(services)))
    await asyncio.gather(*(create_pod(number) for number in range(pods)))
    return addresses


async def _put_endpoints(objects: Objects, name: str, addresses: Sequence[str]) -> None:
    ports = [{"name": "http", "port": 8080, "protocol": "TCP"}]
    endpoints = [{"addresses": [address], "conditions": {"ready": True}} for address in addresses]
    await objects.put_slice(f"{name}-a", name, ports, endpoints)


def _address(number: int) -> str:
    return f"198.18.{number // 250}.{number % 250 + 1}"


async def measure_reaction(
    ca: CA, addresses: Sequence[str], change: Callable[[int], Awaitable[object]], changes: int
) -> list[float]:
    """Watch addresses as a sidecar does, make changes one by one, and return how long each took to arrive, in ms."""
    token = await ca.make_token()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # Measured here, on this machine.
    registration = Registration(instance="bench", version="0", addresses=(), tunnel_port=15008, capture="listeners")
    times: list[float] = []
    async with websockets.connect(f"wss://{token.ca}{STREAM_PATH}", ssl=context, proxy=None) as stream:
        await stream.send(encode_message(Enrol(token=token.token, csr=make_csr()[1], registration=registration)))
        for address in addresses:
            await stream.send(encode_message(Lookup(address=address)))
        seen = 0
        while seen < len(addresses):
            seen += isinstance(decode_from_ca(await stream.recv(decode=False)), DirectoryEntry)
        for number in range(changes):
            begin = time.perf_counter()
            writing = asyncio.ensure_future(change(number))
            async with asyncio.timeout(DEADLINE_S):
                while not isinstance(decode_from_ca(await stream.recv(decode=False)), DirectoryEntry):
                    pass
            times.append((time.perf_counter() - begin) * 1000)
            await writing
            await asyncio.sleep(0.12)  # So that two changes aren't pushed as one.
    return times


async def run(options: argparse.Namespace, directory: Path, server: ApiServer) -> dict[str, Any]:
    """Measure, and return the figures by name."""
    kubeconfig = make_ca_kubeconfig(server)
    figures: dict[str, Any] = {"pods": options.pods, "services": options.services}
    async with CA.running(directory / "alone", None) as ca:
        figures["memory_outside_cluster_mib"] = ca.read_memory()[0]
    async with CA.running(directory / "empty", kubeconfig) as ca:
        figures["memory_empty_cluster_mib"] = ca.read_memory()[0]
    server.create_namespace(NAMESPACE)
    async with Objects.of(server, NAMESPACE) as objects:
        async with CA.running(directory / "ca", kubeconfig) as ca:
            begin, cpu_s = time.perf_counter(), ca.read_cpu_s()
            services = await create_all(objects, options.pods, options.services)
            await _wait_for_services(ca, options.services)
            figures["creation_s"] = time.perf_counter() - begin
            figures["cpu_while_created_s"] = ca.read_cpu_s() - cpu_s
            figures["memory_by_watch_mib"], figures["memory_by_watch_peak_mib"] = ca.read_memory()
            figures |= await _react(ca, objects, services, options.changes)
            cpu_s = ca.read_cpu_s()
            await asyncio.sleep(10)
            figures["cpu_idle_percent"] = (ca.read_cpu_s() - cpu_s) * 10
        begin = time.perf_counter()
        async with CA.running(directory / "ca", kubeconfig) as ca:
            figures["start_until_ready_s"] = time.perf_counter() - begin
            figures["memory_by_list_mib"], figures["memory_by_list_peak_mib"] = ca.read_memory()
            status = await ca.look()
            figures["watched"] = {watch.name: watch.objects for watch in status.watches}
    return figures


async def _wait_for_services(ca: CA, services: int) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            if (await ca.look()).services >= services:
                return
            await asyncio.sleep(0.1)


async def _react(ca: CA, objects: Objects, services: Sequence[str], changes: int) -> dict[str, Any]:
    pods = [f"198.18.100.{number + 1}" for number in range(min(changes, 200))]

    async def move_pod(number: int) -> None:
        await objects.set_status("pod-0", pods[number])

    async def move_endpoint(number: int) -> None:
        await _put_endpoints(objects, "service-0", [f"198.18.101.{number + 1}"])

    async def only_write(number: int) -> float:
        begin = time.perf_counter()
        await objects.set_status("pod-2", f"198.18.102.{number + 1}")
        return (time.perf_counter() - begin) * 1000

    def describe(times: Sequence[float]) -> dict[str, float]:
        cut = statistics.quantiles(times, n=100)
        return {"p50_ms": statistics.median(times), "p99_ms": cut[98], "worst_ms": max(times)}

    of_pods: list[float] = []
    for number, address in enumerate(pods):  # A pod that moves also leaves an address: one is watched at a time.
        of_pods += await measure_reaction(ca, [address], lambda _, n=number: move_pod(n), 1)  # type: ignore[misc]
    of_services = await measure_reaction(ca, services[:1], move_endpoint, len(pods))
    return {
        "reaction_to_pod": describe(of_pods),
        "reaction_to_endpoint": describe(of_services),
        "write_alone": describe([await only_write(number) for number in range(len(pods))]),
    }


def main(arguments: Sequence[str]) -> int:
    """Run everything and print it."""
    options = parse_arguments(arguments)
    with tempfile.TemporaryDirectory(prefix="touchmark-bench-") as name:
        directory = Path(name)
        server = ApiServer(directory / "api-server")
        try:
            server.start()
            figures = uvloop.run(run(options, directory, server))
        finally:
            server.stop(kill=True)
    table = Table(title=f"CA with {options.pods} pods and {options.services} Services")
    table.add_column("what")
    table.add_column("figure", justify="right")
    for key, value in figures.items():
        for part, number in value.items() if isinstance(value, dict) else [("", value)]:
            table.add_row(f"{key} {part}".strip(), f"{number:.1f}" if isinstance(number, float) else str(number))
    Console().print(table)
    if options.json is not None:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(figures)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
