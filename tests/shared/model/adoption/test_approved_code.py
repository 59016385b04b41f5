"""What was refused for its loaded code, once that code is approved."""

from __future__ import annotations

from typing import Any

import msgspec

from shared.model.adoption.approved_code import restore_programs
from shared.model.identity.loaded_code import CodeCheck, LoadedCode, LoadedObject
from shared.model.identity.program import Program
from shared.model.policy.decision import DecisionRecord, PartyRecord, ProcessRecord
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Approval, Direction, NamespaceState, WorkloadCode
from tests.shared.model.policy.records import make_record

LIBRARY, OTHER, PROGRAM = "1" * 64, "2" * 64, "3" * 64
LOADED = LoadedCode(objects=(LoadedObject(path="/lib/x.so", digest=LIBRARY),))
WEB, DB = PartyRecord(workload="shop/web"), PartyRecord(workload="shop/db", program="sha256:" + "4" * 64)
REFUSED = PartyRecord(workload="shop/web", why=Reason.CODE_NOT_APPROVED)


def state(*approved: str) -> NamespaceState:
    return NamespaceState(
        namespace="shop",
        approvals=(Approval(service_account="web", program=Program(digest=PROGRAM), code=CodeCheck.ENFORCE),),
        code=(WorkloadCode(service_account="web", digests=approved),),
    )


def refused(code: LoadedCode | msgspec.UnsetType = LOADED, **changes: Any) -> DecisionRecord:
    process = ProcessRecord(pid=7, digest=PROGRAM, code=code)
    record = make_record(direction=Direction.EGRESS, source=REFUSED, destination=DB, process=process, connection="c1")
    return msgspec.structs.replace(record, **changes)


def of_the_server(connection: str) -> DecisionRecord:
    return make_record(direction=Direction.INGRESS, source=WEB, destination=DB, connection=connection)


def test_a_record_whose_code_is_approved_by_now_is_about_its_program_and_so_is_the_other_sides() -> None:
    records = [refused(), refused(msgspec.UNSET, connection="c2"), of_the_server("c2"), of_the_server("c3")]
    found = restore_programs(records, state(LIBRARY))
    assert [each.source.program for each in found] == [f"sha256:{PROGRAM}"] * 3 + [""]
    assert [each.source.why for each in found] == [""] * 4


def test_it_stays_as_it_was_where_some_code_isnt_approved_or_none_was_told() -> None:
    also = refused(LoadedCode(objects=(LoadedObject(path="/lib/y.so", digest=OTHER),)))
    for records, approved in (
        ([refused()], (OTHER,)),
        ([refused(), also], (LIBRARY,)),
        ([refused(msgspec.UNSET)], (LIBRARY,)),
        ([refused(source=PartyRecord(workload="odd", why=Reason.CODE_NOT_APPROVED))], (LIBRARY,)),
    ):
        assert restore_programs(records, state(*approved)) == records
