"""The bench of ingestion: what a reporter sends, and what two kinds of runs come to."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest

from bench.ingestion import Leg, Reporter, describe
from bench.issuance import Result
from shared.model.wire.messages import MAX_DECISIONS_PER_MESSAGE, Decisions, DecisionsStored, encode_message


class Left(Exception):
    """The stream has ended."""


class Stream:
    """Acknowledges each batch, and leaves after some."""

    def __init__(self, *, batches: int) -> None:
        self.sent: list[Decisions] = []
        self._batches = batches

    async def send(self, data: bytes, *, text: bool) -> None:
        assert text
        if len(self.sent) == self._batches:
            raise Left
        self.sent.append(msgspec.json.decode(data, type=Decisions))

    async def recv(self) -> bytes:
        return encode_message(DecisionsStored(batch=self.sent[-1].batch))


async def test_a_reporter_sends_batches_of_its_own_workload_and_counts_what_is_acknowledged() -> None:
    stream = Stream(batches=3)
    reporter = Reporter(cast("Any", stream), 2, interval_s=0.0)
    with pytest.raises(Left):
        await reporter.send()
    assert [message.batch for message in stream.sent] == [1, 2, 3]
    assert reporter.stored == 3 * MAX_DECISIONS_PER_MESSAGE
    record = stream.sent[0].records[0]
    assert (record.sidecar, record.source.workload) == ("w2-1", "shop/w2")


def test_rounds_are_compared_in_pairs() -> None:
    alone = [Leg(issued=make_result(rate)) for rate in (100.0, 200.0, 50.0)]
    beside = [Leg(issued=make_result(rate), records_per_s=2e4) for rate in (90.0, 100.0, 40.0)]
    figures = describe(alone, beside)
    assert figures["ratio"] == 0.8
    assert figures["certificates_per_s"] == {"alone": [100, 200, 50], "beside": [90, 100, 40]}
    assert figures["records_per_s"] == [20_000] * 3


def make_result(rate: float) -> Result:
    return Result(rate=rate, p50_ms=1.0, p99_ms=2.0, cpu_us=900.0, clients_cpu_us=300.0, issued=1)
