"""OCSF events: the numbers of the schema for each kind of record, and the program's digest in the host profile."""

from __future__ import annotations

import json

import pytest

from shared.model.formats.ocsf import make_event
from shared.model.policy.decision import DecisionRecord
from tests.shared.model.formats.examples import ALLOWED, DENIED, DIGEST, EVERY, STARTED


@pytest.mark.parametrize(
    ("record", "activity", "action", "disposition"), [(DENIED, 5, 2, 2), (ALLOWED, 2, 1, 1), (STARTED, 1, 3, 17)]
)
def test_what_happened_is_told_by_the_schemas_numbers(
    record: DecisionRecord, activity: int, action: int, disposition: int
) -> None:
    event = make_event(record)
    assert (event["activity_id"], event["action_id"], event["disposition_id"]) == (activity, action, disposition)
    assert (event["class_uid"], event["type_uid"], event["category_uid"]) == (4001, 400100 + activity, 4)
    assert event["metadata"]["profiles"] == ["host", "security_control"]


def test_the_process_has_its_files_digest() -> None:
    process = make_event(DENIED)["actor"]["process"]
    assert process["file"]["hashes"] == [{"algorithm_id": 3, "algorithm": "SHA-256", "value": DIGEST}]
    assert (process["pid"], process["user"], process["file"]["name"]) == (7, {"uid": "1000"}, "curl")
    assert "actor" not in make_event(ALLOWED)


def test_both_ends_are_named_by_address_workload_and_identity() -> None:
    event = make_event(ALLOWED)
    assert event["src_endpoint"] == {
        "ip": "2001:db8::1",
        "port": 40000,
        "name": "bank/teller",
        "uid": "spiffe://d/ns/bank/sa/teller",
    }
    assert event["dst_endpoint"]["svc_name"] == "shop/db:5432"
    assert (event["start_time"], event["time"], event["count"]) == (1_799_999_998_500, 1_800_000_000_000, 3)
    assert event["connection_info"]["direction_id"] == 1


@pytest.mark.parametrize("record", EVERY)
def test_nothing_of_a_record_is_left_out(record: DecisionRecord) -> None:
    text = json.dumps(make_event(record))
    for part in (record.rule, record.reason, record.source.program, record.mode, record.connection, record.sidecar):
        assert part in text
