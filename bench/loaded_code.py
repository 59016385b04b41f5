"""``python -m bench.loaded_code``: what it costs to compare loaded code with what is approved.

Each new process maps the same 60 libraries, whose digests are known: it is looked at in a worker thread, and its
connection waits for that. A further connection of it within a second is checked on the event loop.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any, cast

from bench.errors import BenchError
from bench.figures import percentile
from shared.model.errors import TouchmarkError
from shared.model.identity.identity import Workload
from shared.model.identity.loaded_code import CodeCheck
from shared.model.identity.program import Program
from shared.model.policy.evaluate import compile_namespace
from shared.model.policy.rules import Approval, NamespaceState, WorkloadCode
from sidecar.attest.facts import Attestation, Execution
from sidecar.attest.process import Process
from sidecar.code_check import check_code
from sidecar.loaded.looks import CodeLooks

_PROGRAM = Program(digest="a" * 64)
_SLEEP = "/bin/sleep"
_TIMEOUT_S = 20.0
_CHECKS = 20


async def measure(*, libraries: int, count: int, directory: Path) -> tuple[list[float], list[float]]:
    """Return the seconds of ``count`` looks at new processes, and of one check of each once it is known.

    Raises:
        BenchError: a process didn't load the libraries, or a check had to look.
    """
    names = _make_libraries(directory, libraries)
    await asyncio.sleep(0.3)  # A file that has just changed isn't taken from the cache.
    looks = CodeLooks()
    first: list[float] = []
    known: list[float] = []
    try:
        with _running(names) as execution:
            digests = tuple(each.digest for each in (await looks.look(execution)).code.objects)
        if len(digests) < libraries:
            raise BenchError(f"{len(digests)} libraries are mapped instead of {libraries}")
        sidecar = _make_sidecar(looks, digests)
        for _ in range(count):
            with _running(names) as execution:
                attestation = Attestation(
                    program=_PROGRAM, process=cast("Any", None), inode=1, cookie=1, execution=execution
                )
                started = time.perf_counter()
                await check_code(sidecar, attestation)
                first.append(time.perf_counter() - started)
                started = time.perf_counter()
                for _ in range(_CHECKS):
                    await check_code(sidecar, attestation)
                known.append((time.perf_counter() - started) / _CHECKS)
    finally:
        looks.close()
    return first, known


def _make_libraries(directory: Path, count: int) -> list[str]:
    """Make libraries that load and do nothing, each with a content of its own."""
    maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    original = next(line.split()[-1] for line in maps if "/libm.so" in line or "/libm-" in line or "/libz.so" in line)
    names = []
    for number in range(count):
        target = directory / f"library{number}.so"
        shutil.copy(original, target)
        with target.open("ab") as file:
            file.write(str(number).encode())
        names.append(str(target))
    return names


@contextmanager
def _running(names: Sequence[str]) -> Iterator[Execution]:
    """Run a program that has loaded the libraries."""
    child = subprocess.Popen([_SLEEP, "600"], env={"LD_PRELOAD": ":".join(names)})
    try:
        deadline = time.monotonic() + _TIMEOUT_S
        while Path(f"/proc/{child.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "S" or (
            names[-1] not in Path(f"/proc/{child.pid}/maps").read_text(encoding="utf-8")
        ):
            if time.monotonic() > deadline:
                raise BenchError("the program hasn't loaded its libraries")
            time.sleep(0.002)
        process = Process(child.pid)
        try:
            device, file, *_ = process.read_executable()
            image = process.image
            yield Execution(
                child.pid, image.start_time, device, file, image.code, image.stack, image.arguments, process.memory
            )
        finally:
            process.close()
    finally:
        child.kill()
        child.wait()


def _make_sidecar(looks: CodeLooks, digests: tuple[str, ...]) -> Any:
    workload = Workload(namespace="shop", service_account="web")
    approval = Approval(service_account="web", program=_PROGRAM, code=CodeCheck.ENFORCE)
    code = (WorkloadCode(service_account="web", digests=digests),)
    own = compile_namespace(NamespaceState(namespace="shop", version=1, approvals=(approval,), code=code))
    return SimpleNamespace(workload=workload, policies=SimpleNamespace(own=own), code=looks, sightings=None)


def main(arguments: Sequence[str]) -> int:
    """Measure, print one JSON object for each case, return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.loaded_code")
    parser.add_argument("--count", type=int, default=100, help="processes (default: 100)")
    parser.add_argument("--libraries", type=int, default=60, help="that each has mapped (default: 60)")
    options = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="touchmark-bench-", dir=os.environ.get("TMPDIR")) as directory:
            first, known = asyncio.run(
                measure(libraries=options.libraries, count=options.count, directory=Path(directory))
            )
    except TouchmarkError as error:
        print(f"✗ {error.message}", file=sys.stderr)
        return 1
    for case, seconds in (("new process", first), ("known process", known)):
        print(
            json.dumps(
                {
                    "case": case,
                    "libraries": options.libraries,
                    "count": len(seconds),
                    "median_us": round(median(seconds) * 1e6, 1),
                    "p99_us": round(percentile(seconds, 0.99) * 1e6, 1),
                }
            )
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
