"""Approvals from decisions: seen, not approved, reviewed."""

from __future__ import annotations

import msgspec
import pytest

from cli.main import run
from cli.text.exit_codes import ExitCode
from shared.model.identity.program import Program
from shared.model.policy.decision import PartyRecord, ProcessRecord
from shared.model.wire.admin import DecisionList, ProgramView
from tests.cli.fake_ca import FakeCA
from tests.cli.observations import DENIAL


@pytest.fixture
def shop(ca: FakeCA) -> FakeCA:
    ca.answers["GET /v1/decisions"] = DecisionList(decisions=(DENIAL, DENIAL))
    ca.answers["POST /v1/programs"] = ProgramView(
        namespace="shop",
        name="client-1",
        service_account="client",
        programs=(Program(digest="ab" * 32),),
        weak=False,
        approved_by="",
        approved=1.0,
    )
    return ca


def test_what_decisions_saw_is_approved_once_with_yes(shop: FakeCA) -> None:
    assert run(["program", "approve", "shop/client", "--from-decisions", "--yes"]) == ExitCode.SUCCESS
    [request] = shop.asked("POST /v1/programs")
    assert request["programs"] == [{"digest": "ab" * 32, "main": ""}]


def test_without_a_terminal_nothing_is_approved(shop: FakeCA) -> None:
    assert run(["program", "approve", "shop/client", "--from-decisions", "--json"]) == ExitCode.REFUSED
    assert not shop.asked("POST /v1/programs")


def test_an_interpreter_that_decisions_saw_needs_weak_too(shop: FakeCA) -> None:
    record = msgspec.structs.replace(
        DENIAL.record,
        process=ProcessRecord(path="/usr/bin/python3.11"),
        source=PartyRecord(workload="shop/client", program=f"sha256:{'ab' * 32}"),
    )
    shop.answers["GET /v1/decisions"] = DecisionList(decisions=(msgspec.structs.replace(DENIAL, record=record),))
    assert run(["program", "approve", "shop/client", "--from-decisions", "--yes"]) == ExitCode.BAD_INPUT
