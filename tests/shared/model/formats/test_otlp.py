"""OTLP's JSON: 64-bit numbers as strings, semantic conventions where there are any, everything else below touchmark."""

from __future__ import annotations

from typing import Any

from shared.model.formats.otlp import make_request
from tests.shared.model.formats.examples import ALLOWED, DENIED, EVERY, PROGRAM, STARTED


def make_logs(*records: Any, every: int = 1) -> list[Any]:
    request = make_request(records, instance="ca-1", observed=1_800_000_001.0, every=every)
    return list(request["resourceLogs"][0]["scopeLogs"][0]["logRecords"])


def read(log: Any) -> dict[str, Any]:
    return {each["key"]: next(iter(each["value"].values())) for each in log["attributes"]}


def test_a_refusal_is_an_error_with_its_program() -> None:
    [log] = make_logs(DENIED)
    assert (log["severityNumber"], log["severityText"], log["eventName"]) == (17, "ERROR", "touchmark.decision")
    assert log["timeUnixNano"] == "1800000000000000000"
    attributes = read(log)
    assert attributes["process.executable.path"] == "/usr/bin/curl"
    assert attributes["touchmark.process.digest"] == PROGRAM
    assert (attributes["source.address"], attributes["destination.port"]) == ("198.18.0.2", "5432")
    assert attributes["touchmark.verdict"] == "deny"


def test_what_isnt_known_is_left_out_and_zero_bytes_are_told() -> None:
    attributes = read(make_logs(STARTED)[0])
    assert "process.pid" not in attributes
    assert attributes["touchmark.bytes_sent"] == "0"


def test_sampling_is_told_where_it_applies() -> None:
    assert [read(each)["touchmark.sampled_one_of"] for each in make_logs(*EVERY, every=10)] == ["1", "10", "1"]
    assert read(make_logs(ALLOWED)[0])["network.type"] == "ipv6"


def test_no_key_occurs_twice() -> None:
    for log in make_logs(*EVERY):
        assert len(read(log)) == len(log["attributes"])
