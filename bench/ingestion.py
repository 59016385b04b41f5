"""``python -m bench.ingestion``: certificates a second from the real CA, with and without decisions arriving meanwhile.

The load of ``bench.issuance``, in turn alone and beside other sidecars that send batches of 500 decisions, each of one
connection, over their own TLS streams; each sends its next batch when the last one is acknowledged and its turn has
come at the rate that is asked for. What they cost here isn't the CA's, but shares the machine with it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import uvloop
from websockets.asyncio.client import ClientConnection

from bench.edges import list_targets, make_records
from bench.errors import BenchError
from bench.issuance import Result, enrol, measure, receive
from bench.subjects.touchmark import RunningCA, run_ca
from cli.admin.client import AdminClient
from shared.model.errors import TouchmarkError
from shared.model.policy.rules import Direction
from shared.model.wire.messages import (
    MAX_DECISIONS_PER_MESSAGE,
    Decisions,
    DecisionsStored,
    decode_from_ca,
    encode_message,
)

REPORTERS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """What one run came to; ``records_per_s``: decisions that the CA acknowledged while certificates were counted."""

    issued: Result
    records_per_s: float = 0.0


async def measure_leg(ca: RunningCA, *, clients: int, duration_s: float, records_per_s: int) -> Leg:
    """Run the load against a CA that was just started.

    Arguments:
        records_per_s: how many decisions are sent at most; 0: none.

    Raises:
        BenchError: as of ``bench.issuance``, or a sidecar that sends decisions failed.
    """
    if not records_per_s:
        return Leg(issued=await measure(ca, clients=clients, duration_s=duration_s))
    async with AdminClient(ca.admin_socket) as admin, AsyncExitStack() as streams:
        reporters = []
        for number in range(REPORTERS):
            stream = await enrol(ca, admin, workload=f"shop/w{number}", instance=f"w{number}-1")
            streams.push_async_callback(stream.close)
            reporters.append(Reporter(stream, number, interval_s=REPORTERS * MAX_DECISIONS_PER_MESSAGE / records_per_s))
        sending = [asyncio.create_task(each.send()) for each in reporters]
        try:
            began = time.perf_counter()
            issued = await measure(ca, clients=clients, duration_s=duration_s, others=REPORTERS)
            elapsed_s = time.perf_counter() - began
        finally:
            for task in sending:
                task.cancel()
            outcomes = await asyncio.gather(*sending, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise BenchError("a sidecar that sends decisions failed") from outcome
    return Leg(issued=issued, records_per_s=sum(each.stored for each in reporters) / elapsed_s)


class Reporter:
    """One sidecar that sends decisions.

    Arguments:
        interval_s: from one batch to the next.

    Attributes:
        stored: how many the CA has acknowledged.
    """

    def __init__(self, stream: ClientConnection, number: int, *, interval_s: float) -> None:
        self._stream = stream
        self._number = number
        self._interval_s = interval_s
        self.stored = 0

    async def send(self) -> None:
        """Send one batch after another, until it is cancelled."""
        records = tuple(
            make_records(
                self._number, list_targets(self._number), count=MAX_DECISIONS_PER_MESSAGE, now=time.time(),
                side=Direction.EGRESS,
            )
        )  # fmt: skip
        batch, due = 1, time.perf_counter() + self._interval_s * self._number / REPORTERS
        while True:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            await self._stream.send(encode_message(Decisions(batch=batch, records=records)), text=True)
            while True:
                answer = decode_from_ca(await receive(self._stream))
                if isinstance(answer, DecisionsStored) and answer.batch == batch:
                    break
            self.stored += len(records)
            batch, due = batch + 1, max(due + self._interval_s, time.perf_counter() - self._interval_s)


def describe(alone: Sequence[Leg], beside: Sequence[Leg]) -> dict[str, object]:
    """Return what the legs came to, in the order in which they were run."""
    return {
        "certificates_per_s": {
            name: [round(leg.issued.rate) for leg in legs] for name, legs in (("alone", alone), ("beside", beside))
        },
        "latency_p99_ms": {
            name: [round(leg.issued.p99_ms, 1) for leg in legs] for name, legs in (("alone", alone), ("beside", beside))
        },
        "records_per_s": [round(leg.records_per_s) for leg in beside],
        "ratio": round(
            median(other.issued.rate / one.issued.rate for one, other in zip(alone, beside, strict=True)), 3
        ),
    }


def main(arguments: Sequence[str]) -> int:
    """Measure, print one JSON object, return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.ingestion")
    parser.add_argument("--clients", type=int, default=16, help="streams that ask for certificates (default: 16)")
    parser.add_argument("--duration", type=float, default=5.0, help="seconds of each run (default: 5)")
    parser.add_argument("--records", type=int, default=20_000, help="decisions sent a second (default: 20000)")
    parser.add_argument("--rounds", type=int, default=3, help="of both, in turn (default: 3)")
    options = parser.parse_args(arguments)
    legs: tuple[list[Leg], list[Leg]] = ([], [])
    try:
        for _ in range(options.rounds):
            for its, records_per_s in zip(legs, (0, options.records), strict=True):
                with tempfile.TemporaryDirectory(prefix="touchmark-bench-") as directory, run_ca(Path(directory)) as ca:
                    leg = measure_leg(
                        ca, clients=options.clients, duration_s=options.duration, records_per_s=records_per_s
                    )
                    its.append(uvloop.run(leg))
    except (TouchmarkError, TimeoutError) as error:
        print(f"✗ {error}", file=sys.stderr)
        return 1
    print(json.dumps(describe(*legs)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
