"""Records: every one in the local log; to the CA with acknowledgement, allows aggregated, denials kept."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import msgspec
import pytest

from shared.model.errors import UnavailableError
from shared.model.formats.line import LineFormat, choose_writer
from shared.model.identity.loaded_code import LoadedCode, LoadedObject
from shared.model.policy.decision import Answer, DecisionRecord, Ending, PartyRecord
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction, Mode, NamespaceState
from shared.model.wire.messages import MAX_DECISION_BYTES, MAX_MESSAGE_BYTES, Decisions, FromSidecar, encode_message
from shared.runtime.sinks import LineSink
from sidecar.capture.refusal import record_refusal
from sidecar.connection import recording as module
from sidecar.connection.recording import Recorder
from tests.sidecar.little_ca import until

STRANGER = record_refusal(
    direction=Direction.INGRESS,
    reason=Reason.OVERLOADED,
    source=("198.18.0.1", 1),
    destination=("fd00::1", 2),
    state=NamespaceState(namespace="shop"),
    mode=Mode.PERMISSIVE,
    sidecar="one",
    connection="c",
    now=1.0,
)
DENIAL = msgspec.structs.replace(
    STRANGER, source=msgspec.structs.replace(STRANGER.source, workload="shop/web", identity="spiffe://t/ns/shop/sa/web")
)
ALLOW = msgspec.structs.replace(DENIAL, answer=Answer.ALLOW, ending=Ending.FINISHED, bytes_sent=3)


class Listening:
    """A CA that takes batches, or isn't there."""

    def __init__(self) -> None:
        self.batches: list[Decisions] = []
        self.is_away = False

    def send(self, message: FromSidecar) -> None:
        if self.is_away:
            raise UnavailableError("away")
        assert isinstance(message, Decisions)
        self.batches.append(message)

    def records(self) -> list[DecisionRecord]:
        return [record for batch in self.batches for record in batch.records]


def test_a_refusal_names_both_ends() -> None:
    assert (DENIAL.source.address, DENIAL.destination.address) == ("198.18.0.1:1", "[fd00::1]:2")


async def test_each_record_is_one_line_and_nothing_is_sent_ahead_of_its_acknowledgement(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    sink, ca = LineSink(descriptor), Listening()
    recorder = Recorder(sink, send=ca.send, write=choose_writer(LineFormat.OCSF))
    for _ in range(200):
        recorder.record(ALLOW)
    for _ in range(600):
        recorder.record(DENIAL)
    await until(lambda: ca.batches)
    assert [len(batch.records) for batch in ca.batches] == [500]
    recorder.acknowledge(7)
    assert len(ca.batches) == 1
    recorder.acknowledge(1)
    recorder.acknowledge(2)
    await recorder.close(timeout_s=30)
    sink.close(timeout_s=30)
    os.close(descriptor)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [each["class_uid"] for each in lines] == [4001] * 800
    allows = [record for record in ca.records() if record.answer is Answer.ALLOW]
    assert sum(record.count for record in allows) == 200
    assert len(allows) == 51
    assert sum(record.bytes_sent for record in allows) == 600
    assert len(ca.records()) - len(allows) == 600


async def test_an_outage_loses_no_denial_and_the_unacknowledged_batch_is_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING_DENIALS", 10)
    descriptor = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    sink, ca = LineSink(descriptor), Listening()
    ca.is_away = True
    recorder = Recorder(sink, send=ca.send)
    for _ in range(100):
        recorder.record(DENIAL)
    await asyncio.sleep(1.1)
    ca.is_away = False
    recorder.reconnect()
    recorder.reconnect()
    assert [batch.batch for batch in ca.batches] == [1, 1]
    assert sum(record.count for record in ca.batches[0].records) == 100
    recorder.acknowledge(1)
    await recorder.close(timeout_s=30)
    assert recorder.lost_total == 0
    sink.close(timeout_s=30)
    os.close(descriptor)


async def test_a_full_aggregate_is_followed_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CA takes no greater count; what fits nowhere is counted as lost."""
    monkeypatch.setattr(module, "MAX_COUNT", 40)
    monkeypatch.setattr(module, "MAX_WAITING_ALLOWS", 2)
    monkeypatch.setattr(module, "MAX_WAITING_DENIALS", 0)
    descriptor = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    sink, ca = LineSink(descriptor), Listening()
    recorder = Recorder(sink, send=ca.send)
    for _ in range(100):
        recorder.record(DENIAL)
    await recorder.close(timeout_s=0.1)
    assert [record.count for record in ca.records()] == [40, 40]
    assert recorder.lost_total == 0
    for _ in range(150):
        recorder.record(DENIAL)
    assert recorder.lost_total == 20 + 150 - 3 * 40
    sink.close(timeout_s=30)
    os.close(descriptor)


async def test_aggregates_tell_hours_ends_and_services_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the CA counts for an edge and an hour is as exact as what became one record here."""
    monkeypatch.setattr(module, "MAX_WAITING_DENIALS", 0)
    monkeypatch.setattr(module, "MAX_NAMED_STRANGERS", 6)
    descriptor = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    sink, ca = LineSink(descriptor), Listening()
    recorder = Recorder(sink, send=ca.send)
    kinds: list[dict[str, object]] = [
        {},
        {"time": 3601.0},
        {"service": "shop/db:5432"},
        {"has_started": True},
        {"source": PartyRecord(address="198.18.0.1:7", listed="shop/web")},
        {"source": PartyRecord(address="198.18.0.7:1")},
    ]
    for change in kinds:
        for _ in range(2):
            recorder.record(msgspec.structs.replace(STRANGER, **change))
    for host in (8, 9):  # Too many to be told apart.
        recorder.record(msgspec.structs.replace(STRANGER, source=PartyRecord(address=f"198.18.0.{host}:1")))
    await recorder.close(timeout_s=0.1)
    assert sorted(record.count for record in ca.records()) == [2] * 7
    assert sum(record.source.address == "" for record in ca.records()) == 1
    assert recorder.lost_total == 0
    sink.close(timeout_s=30)
    os.close(descriptor)


async def test_strangers_cant_fill_the_cas_log_and_each_stands_in_the_local_one(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    sink, ca = LineSink(descriptor), Listening()
    recorder = Recorder(sink, send=ca.send)
    for _ in range(400):
        recorder.record(STRANGER)
    recorder.record(DENIAL)
    closing = asyncio.create_task(recorder.close(timeout_s=60))
    await until(lambda: ca.batches)
    recorder.acknowledge(1)
    await closing
    sink.close(timeout_s=30)
    os.close(descriptor)
    assert len((tmp_path / "log").read_text().splitlines()) == 401
    strangers = [each for each in ca.records() if not each.source.workload]
    assert (len(strangers), sum(each.count for each in strangers)) == (51, 400)
    assert DENIAL in ca.records(), "a member's refusal isn't hidden among them"
    assert recorder.lost_total == 0


async def test_a_batch_is_never_more_than_the_ca_takes(tmp_path: Path) -> None:
    """Else programs that have loaded much would end the stream again and again, and no decision would arrive."""
    descriptor = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    sink, ca = LineSink(descriptor), Listening()
    recorder = Recorder(sink, send=ca.send)
    large = msgspec.structs.replace(DENIAL, detail="x" * (MAX_DECISION_BYTES - 2_000))
    for _ in range(150):
        recorder.record(large)
    recorder.record(msgspec.structs.replace(DENIAL, detail="x" * MAX_DECISION_BYTES))
    recorder.record(DENIAL)
    await until(lambda: ca.batches)
    while recorder.waiting:
        recorder.acknowledge(ca.batches[-1].batch)
    assert all(len(encode_message(each)) < MAX_MESSAGE_BYTES for each in ca.batches)
    assert [each.detail == large.detail for each in ca.records()] == [True] * 150 + [False]
    assert (sum(each.lost for each in ca.batches), recorder.lost_total) == (1, 1)
    await recorder.close(timeout_s=30)
    sink.close(timeout_s=30)
    os.close(descriptor)


async def test_lists_of_loaded_code_wait_in_bounded_memory_and_records_go_on_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program chooses what the files are called that it loads, and the CA may be away for hours."""
    code = LoadedCode(objects=(LoadedObject(path="/" + "x" * 200, digest="ab" * 32),))
    large = msgspec.structs.replace(DENIAL, process=msgspec.structs.replace(DENIAL.process, code=code))
    monkeypatch.setattr(module, "MAX_WAITING_CODE_BYTES", 3 * 265)
    descriptor = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    sink, ca = LineSink(descriptor), Listening()
    ca.is_away = True
    untold: list[LoadedCode] = []
    recorder = Recorder(sink, send=ca.send, note_untold=untold.append)
    for _ in range(9):
        recorder.record(large)
    assert [each is code for each in untold] == [True] * 6
    ca.is_away = False
    recorder.reconnect()
    await until(lambda: len(ca.records()) == 9)
    assert [each.process.code is not msgspec.UNSET for each in ca.records()] == [True] * 3 + [False] * 6
    recorder.acknowledge(ca.batches[-1].batch)
    recorder.record(large)
    await until(lambda: len(ca.records()) == 10)
    assert ca.records()[-1].process.code == code, "there is room again"
    recorder.acknowledge(ca.batches[-1].batch)
    await recorder.close(timeout_s=30)
    sink.close(timeout_s=30)
    os.close(descriptor)
