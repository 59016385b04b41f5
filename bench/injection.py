"""``python -m bench.injection``: what injection costs a pod, at a real API server with the real CA behind its webhook.

Pods are created in turn, one that asks and one that doesn't, so that both see the same machine; the difference is what
injection adds: the API server's call, its JSON patch, and validating three containers instead of one. The webhook alone
is asked the same question directly, over one kept connection, as the API server keeps one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec
import yaml

from bench.accounting import read_usage
from bench.figures import percentile
from ca.kubernetes.api.client import ClusterClient
from tests.kubernetes.harness.api_server import ApiServer
from tests.kubernetes.webhook_ca import ROOT, WebhookCA

NAMESPACE: Final = "bench"
TARGET_P99_S: Final = 0.050
_WARM_UP: Final = 10


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """One series of calls, in milliseconds."""

    what: str
    calls: int
    p50_ms: float
    p99_ms: float
    max_ms: float


def summarise(what: str, samples_s: Sequence[float]) -> Series:
    """Return the figures of one series of durations."""
    return Series(
        what=what,
        calls=len(samples_s),
        p50_ms=round(percentile(samples_s, 0.50) * 1e3, 2),
        p99_ms=round(percentile(samples_s, 0.99) * 1e3, 2),
        max_ms=round(max(samples_s) * 1e3, 2),
    )


def make_pod(name: str, *, asks: bool) -> dict[str, Any]:
    """Make the pod with every kind of probe that the golden files have."""
    path = ROOT / "tests/shared/model/injection/golden/probes.in.yaml"
    pod: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    pod["metadata"] = {"name": name, "annotations": {"touchmark.dev/inject": "true" if asks else "false"}}
    return pod


async def measure(server: ApiServer, ca: WebhookCA, *, pods: int, clients: int) -> list[Series]:
    """Create pods and ask the webhook, and return what each took."""
    client = await ClusterClient.open(server.admin)
    try:
        collection = f"/api/v1/namespaces/{NAMESPACE}/pods"
        samples: dict[bool, list[float]] = {True: [], False: []}

        async def create(index: int) -> None:
            for asks in (True, False) if index % 2 else (False, True):
                body = make_pod(f"p{index}-{int(asks)}", asks=asks)
                began = time.perf_counter()
                created = await client.post(collection, body, dict)
                samples[asks].append(time.perf_counter() - began)
                assert (len(created["spec"]["initContainers"]) == 4) == asks

        await _share(range(_WARM_UP + pods), clients, create)
        direct = await _ask_directly(client, ca, pods)
    finally:
        await client.close()
    return [
        summarise("create a pod that doesn't ask", samples[False][_WARM_UP:]),
        summarise("create a pod that asks", samples[True][_WARM_UP:]),
        summarise("the webhook alone", direct),
    ]


async def _share(indexes: range, clients: int, work: Callable[[int], Awaitable[None]]) -> None:
    waiting = iter(indexes)

    async def run() -> None:
        for index in waiting:
            await work(index)

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(run())


async def _ask_directly(client: ClusterClient, ca: WebhookCA, calls: int) -> list[float]:
    found = await client.get(f"/api/v1/namespaces/{NAMESPACE}/configmaps/touchmark-trust", dict)
    context = ssl.create_default_context(cadata=found["data"]["roots.pem"])
    request = {
        "uid": "bench",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "operation": "CREATE",
        "namespace": NAMESPACE,
        "object": make_pod("direct", asks=True),
    }
    body = json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request})
    samples = []
    async with aiohttp.ClientSession() as session:
        for _ in range(_WARM_UP + calls):
            began = time.perf_counter()
            async with session.post(f"{ca.url}/v1/inject", data=body, ssl=context) as answer:
                assert (await answer.json())["response"]["allowed"]
            samples.append(time.perf_counter() - began)
    return samples[_WARM_UP:]


def main(arguments: Sequence[str]) -> int:
    """Run it and print the figures; 1 when injection adds more than the target."""
    parser = argparse.ArgumentParser(prog="python -m bench.injection", description="What injection costs a pod.")
    parser.add_argument("--pods", type=int, default=300, help="of each kind (%(default)s)")
    parser.add_argument("--clients", type=int, default=1, help="that create pods at once (%(default)s)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="touchmark-bench-injection-") as directory:
        place = Path(directory)
        (place / "server").mkdir()
        (place / "ca").mkdir()
        server = ApiServer(place / "server")
        try:
            server.start()
            server.create_namespace(NAMESPACE)
            with WebhookCA(server, place / "ca") as ca:
                before = read_usage([ca.pid])
                series = asyncio.run(measure(server, ca, pods=options.pods, clients=options.clients))
                after = read_usage([ca.pid])
        finally:
            server.stop()
    for each in series:
        print(
            f"{each.what:<32} {each.calls:>5} calls   p50 {each.p50_ms:>7.2f} ms   p99 {each.p99_ms:>7.2f} ms"
            f"   max {each.max_ms:>7.2f} ms"
        )
    without, asked, alone = series
    added_ms = asked.p99_ms - without.p99_ms
    questions = 2 * (options.pods + _WARM_UP)
    cpu_ms = (after.cpu_us - before.cpu_us) / 1e3 / questions
    print(f"injection adds {added_ms:.2f} ms at p99 (target {TARGET_P99_S * 1e3:.0f} ms)")
    print(f"the CA: {cpu_ms:.2f} ms of CPU a question, {after.rss_bytes / 2**20:.0f} MiB resident")
    if options.json is not None:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(series)))
    return int(added_ms > TARGET_P99_S * 1e3 or alone.p99_ms > TARGET_P99_S * 1e3)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
