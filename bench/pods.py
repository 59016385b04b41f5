"""``python -m bench.pods``: a pod's time until it is ready, with the sidecar and without, and memory. Root; does I/O.

A real node (control plane, containerd, kubelet; the one of ``make test-node``) gets Touchmark by its manifests. Pods of
one container without a probe are then created one after another, in turn one that asks for the sidecar and one that
doesn't, and watched as any client can: what is measured is the time from sending the pod to the API server until its
watch says ``Ready``. Stages are the moments at which the watch first shows them. The kubelet looks for what containers
have done once a second; so each pod is created at a random moment of such a second.

Memory is that of the sidecars and of the CA in their pods, from the kernel: resident and proportional set size
(``smaps_rollup``), and their control group's working set, which is what a limit counts and ``kubectl top`` shows.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from bench.accounting import read_usage
from bench.errors import BenchError
from ca.kubernetes.api.client import ClusterClient
from scripts.kubernetes import isolation
from scripts.kubernetes.__main__ import prepare_node
from shared.model.kubernetes.contract import CAPTURE_CONTAINER, INJECT, POD_NAME_VARIABLE, SIDECAR_CONTAINER
from tests.kubernetes.harness.node import Node
from tests.kubernetes.harness.prepared_command import PreparedCommand
from tests.kubernetes.node.mesh import Mesh

NAMESPACE: Final = "bench"
DEADLINE_S: Final = 120.0
KUBELETS_LOOK_S: Final = 1.0
_PODS: Final = f"/api/v1/namespaces/{NAMESPACE}/pods"
_CGROUPS: Final = Path("/sys/fs/cgroup")


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """What the samples of one figure come to."""

    what: str
    unit: str
    samples: int
    median: float
    min: float
    max: float


def summarise(what: str, unit: str, samples: Sequence[float]) -> Spread:
    """Return the median and the ends."""
    values = {"median": statistics.median(samples), "min": min(samples), "max": max(samples)}
    return Spread(what=what, unit=unit, samples=len(samples), **{name: round(each, 2) for name, each in values.items()})


# ---- Time ------------------------------------------------------------------------------------------------------------
def _find(pod: Mapping[str, Any], statuses: str, name: str) -> Mapping[str, Any]:
    return next((each for each in pod.get("status", {}).get(statuses, ()) if each["name"] == name), {"state": {}})


def _has(pod: Mapping[str, Any], condition: str) -> bool:
    conditions = pod.get("status", {}).get("conditions", ())
    return any(each["type"] == condition and each["status"] == "True" for each in conditions)


# In the order in which they come.
STAGES: Final[Mapping[str, Callable[[Mapping[str, Any]], bool]]] = {
    "has a node": lambda pod: _has(pod, "PodScheduled"),
    "capture has ended": lambda pod: "terminated" in _find(pod, "initContainerStatuses", CAPTURE_CONTAINER)["state"],
    "sidecar runs": lambda pod: "running" in _find(pod, "initContainerStatuses", SIDECAR_CONTAINER)["state"],
    "sidecar is ready": lambda pod: bool(_find(pod, "initContainerStatuses", SIDECAR_CONTAINER).get("started")),
    "application runs": lambda pod: "running" in _find(pod, "containerStatuses", "app")["state"],
    "Ready": lambda pod: _has(pod, "Ready"),
}


async def time_pod(client: ClusterClient, name: str, image: str, *, asks: bool) -> dict[str, float]:
    """Create a pod, follow it until it is ready, delete it; return when each stage was seen, in s from its creation."""
    container = {"name": "app", "image": image, "imagePullPolicy": "Never", "command": ["sleep", "3600"]}
    pod = {
        "metadata": {"name": name, "annotations": {INJECT: "true" if asks else "false"}},
        "spec": {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 1,
            "containers": [container],
        },
    }
    query = {"fieldSelector": f"metadata.name={name}", "watch": "1", "resourceVersion": "0"}
    seen: dict[str, float] = {}
    async with asyncio.timeout(DEADLINE_S), client.follow(_PODS, query=query, idle_s=DEADLINE_S) as lines:
        began = time.monotonic()
        creating = asyncio.ensure_future(client.post(_PODS, pod, dict))
        async for line in lines:
            event = msgspec.json.decode(line)
            found = event["object"]
            if event["type"] == "ERROR":
                raise BenchError(f"the watch of the pod {name}: {found.get('message')}")
            for stage, is_reached in STAGES.items():
                if stage not in seen and is_reached(found):
                    seen[stage] = time.monotonic() - began
            if "Ready" in seen:
                break
        created = await creating
        assert ("initContainers" in created["spec"]) == asks
        await client.delete(f"{_PODS}/{name}")
        async for line in lines:  # Its end mustn't be the next one's load.
            if msgspec.json.decode(line)["type"] == "DELETED":
                return seen
    raise BenchError(f"the watch of the pod {name} ended early")


async def time_pods(kubeconfig: Path, image: str, *, rounds: int) -> dict[bool, list[dict[str, float]]]:
    """Time pods with the sidecar (True) and without (False); who goes first changes from round to round."""
    client = await ClusterClient.open(kubeconfig)
    times: dict[bool, list[dict[str, float]]] = {True: [], False: []}
    try:
        for index in range(-1, rounds):  # The first round warms caches and isn't counted.
            for asks in (True, False) if index % 2 else (False, True):
                await asyncio.sleep(random.uniform(0, KUBELETS_LOOK_S))
                seen = await time_pod(client, f"p{index + 1}-{'with' if asks else 'without'}", image, asks=asks)
                if index >= 0:
                    times[asks].append(seen)
    finally:
        await client.close()
    return times


# ---- Memory ----------------------------------------------------------------------------------------------------------
def find_processes(*words: str) -> Iterator[int]:
    """Yield the PIDs of this PID namespace's processes whose command line holds these words in this order."""
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            try:
                command = (directory / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(command[at : at + len(words)] == [each.encode() for each in words] for at in range(len(command))):
                yield int(directory.name)


def read_memory(pid: int) -> dict[str, float]:
    """Return what a process and its container's control group hold, in MiB."""
    rollup = dict(_read_fields(Path(f"/proc/{pid}/smaps_rollup")))
    groups = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text(encoding="ascii").splitlines()]
    hierarchies = {controllers: path.lstrip("/") for _, controllers, path in groups}
    if "memory" in hierarchies:  # Version 1 of control groups, else 2.
        group = _CGROUPS / "memory" / hierarchies["memory"]
        used, inactive = group / "memory.usage_in_bytes", "total_inactive_file"
    else:
        group = _CGROUPS / hierarchies[""]
        used, inactive = group / "memory.current", "inactive_file"
    working = int(used.read_text(encoding="ascii")) - dict(_read_fields(group / "memory.stat"))[inactive]
    return {"rss": rollup["Rss"] / 1024, "pss": rollup["Pss"] / 1024, "working set": working / 2**20}


def _read_fields(path: Path) -> Iterator[tuple[str, int]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        name, value, *_ = line.split()
        if value.isdecimal():
            yield name.rstrip(":"), int(value)


def time_process(mesh: Mesh, pid: int) -> float:
    """Return how long a sidecar took from the start of its process until it said that it is ready, in s."""
    variables = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    [pod] = [each.partition("=")[2] for each in variables if each.startswith(f"{POD_NAME_VARIABLE}=")]
    events = [msgspec.json.decode(line) for line in mesh.sidecar_log(NAMESPACE, pod).splitlines()]
    [ready] = [each["time"] for each in events if each.get("event") == "sidecar_ready"]
    ticks = int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])  # proc(5)
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return float(ready) - booted - ticks / os.sysconf("SC_CLK_TCK")


def weigh(mesh: Mesh, *, sidecars: int) -> list[Spread]:
    """Return what idle sidecars, started one after another, took for their start, and hold; and the CA beside them."""
    for number in range(sidecars):
        name = f"idle-{number}"
        mesh.run_pod(NAMESPACE, name, "tools", command=["sleep", "3600"], annotations={INJECT: "true"})
    pids = list(find_processes("-m", "sidecar"))
    figures = [
        summarise("a sidecar's process until it is ready", "s", [time_process(mesh, pid) for pid in pids]),
        summarise("a sidecar's CPU since its start", "s", [read_usage([pid]).cpu_us / 1e6 for pid in pids]),
    ]
    for what, words in ((f"the sidecar of {sidecars} idle pods", "sidecar"), (f"the CA of {sidecars} sidecars", "ca")):
        found = [read_memory(pid) for pid in find_processes("-m", words)]
        if len(found) != (sidecars if words == "sidecar" else 1):
            raise BenchError(f"{len(found)} processes `python -m {words}` run")
        figures += [summarise(f"{what}: {kind}", "MiB", [each[kind] for each in found]) for kind in found[0]]
    return figures


# ---- The run ---------------------------------------------------------------------------------------------------------
def measure(*, rounds: int, sidecars: int) -> list[Spread]:
    """Bring up a node with Touchmark, and return all figures."""
    node = Node()
    try:
        node.start()
        with tempfile.TemporaryDirectory() as directory, contextlib.closing(PreparedCommand()) as command:
            mesh = Mesh(node, Path(directory), command, volume=node.directory / "ca-data")
            mesh.install()
            node.create_namespace(NAMESPACE)
            times = asyncio.run(time_pods(node.admin, node.image("tools"), rounds=rounds))
            figures = []
            for asks, name in ((False, "without the sidecar"), (True, "with the sidecar")):
                for stage in STAGES:
                    if samples := [seen[stage] for seen in times[asks] if stage in seen]:
                        figures.append(summarise(f"{name}: {stage}", "s", samples))
            pairs = zip(times[True], times[False], strict=True)
            figures.append(
                summarise("the sidecar adds", "s", [mine["Ready"] - other["Ready"] for mine, other in pairs])
            )
            return figures + weigh(mesh, sidecars=sidecars)
    finally:
        node.stop()


def main(arguments: Sequence[str]) -> int:
    """Run it and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.pods", description="What the sidecar costs a pod.")
    parser.add_argument("--rounds", type=int, default=15, help="pods of each kind (%(default)s)")
    parser.add_argument("--sidecars", type=int, default=5, help="idle pods whose memory is measured (%(default)s)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there")
    options = parser.parse_args(arguments)
    if isolation.run_directory() is None:
        prepare_node()
        return isolation.main([sys.executable, "-m", "bench.pods", *arguments])
    before = os.getloadavg()
    figures = measure(rounds=options.rounds, sidecars=options.sidecars)
    for each in figures:
        spread = f"{each.median:>8.2f} {each.unit:<3}  ({each.min:.2f} to {each.max:.2f}, n = {each.samples})"
        print(f"{each.what:<44} {spread}")
    print(
        "load average over a minute, before and after: "
        + ", ".join(f"{each[0]:.1f}" for each in (before, os.getloadavg()))
    )
    if options.json is not None:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(figures)) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
