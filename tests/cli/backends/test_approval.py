"""Approvals from decisions: seen, not approved, reviewed."""

from __future__ import annotations

import msgspec
import pytest

from cli.main import run
from cli.text.exit_codes import ExitCode
from shared.model.identity.loaded_code import ApprovedCode, LoadedCode, LoadedObject
from shared.model.identity.program import Program
from shared.model.policy.decision import PartyRecord, ProcessRecord
from shared.model.wire.admin import DecisionList, ProgramList, ProgramView
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


@pytest.mark.parametrize("options", [[], ["--yes"], ["--yes", "--json"]])
def test_where_nothing_is_found_the_exit_code_says_that_nothing_is_approved(
    shop: FakeCA, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    shop.answers["GET /v1/decisions"] = DecisionList(decisions=())
    assert run(["program", "approve", "shop/client", "--from-decisions", *options]) == ExitCode.NOTHING
    assert "no decision shows an unapproved program of shop/client" in capsys.readouterr().err
    assert not shop.asked("POST /v1/programs")


def test_several_workloads_are_approved_at_once_and_what_wasnt_found_is_said(
    shop: FakeCA, capsys: pytest.CaptureFixture[str]
) -> None:
    approve = ["program", "approve", "shop/client", "shop/web", "shop/client", "--from-decisions", "--yes"]
    assert run(approve) == ExitCode.NOTHING, "one of them has shown no program"
    assert [each["service_account"] for each in shop.asked("POST /v1/programs")] == ["client"]
    printed = capsys.readouterr()
    assert "approved for shop/client" in printed.out
    assert "no decision shows an unapproved program of shop/web" in printed.err
    run([*approve, "--json"])
    assert len(msgspec.json.decode(capsys.readouterr().out)) == 1, "a list, as of several"
    for words in (["/usr/bin/curl"], ["sha256:" + "ab" * 32], ["shop/web", "--name", "web"]):
        assert run(["program", "approve", "shop/client", *words, "--from-decisions"]) == ExitCode.BAD_INPUT
    assert len(shop.asked("POST /v1/programs")) == 2


def test_without_a_terminal_nothing_is_approved(shop: FakeCA) -> None:
    assert run(["program", "approve", "shop/client", "--from-decisions", "--json"]) == ExitCode.REFUSED
    assert not shop.asked("POST /v1/programs")


def test_an_interpreter_that_decisions_saw_needs_weak_too(shop: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    record = msgspec.structs.replace(
        DENIAL.record,
        process=ProcessRecord(path="/usr/bin/python3.11"),
        source=PartyRecord(workload="shop/client", program=f"sha256:{'ab' * 32}"),
    )
    shop.answers["GET /v1/decisions"] = DecisionList(decisions=(msgspec.structs.replace(DENIAL, record=record),))
    assert run(["program", "approve", "shop/client", "--from-decisions", "--yes"]) == ExitCode.BAD_INPUT
    assert "nothing is approved" in capsys.readouterr().err


@pytest.mark.parametrize(("path", "is_weak"), [("/usr/bin/busybox", True), ("/usr/bin/curl", False)])
def test_an_approval_from_decisions_is_weak_only_where_a_program_is(shop: FakeCA, path: str, is_weak: bool) -> None:
    """Said for several workloads at once, --weak would mark those that need it not, and let them load anything."""
    record = msgspec.structs.replace(
        DENIAL.record,
        process=ProcessRecord(path=path),
        source=PartyRecord(workload="shop/client", program=f"sha256:{'ab' * 32}"),
    )
    shop.answers["GET /v1/decisions"] = DecisionList(decisions=(msgspec.structs.replace(DENIAL, record=record),))
    run(["program", "approve", "shop/client", "--from-decisions", "--yes", "--weak"])
    [request] = shop.asked("POST /v1/programs")
    assert request.get("weak", False) is is_weak


LIBC = LoadedObject(path="/lib/libc.so.6", digest="1" * 64)


def see(shop: FakeCA, code: LoadedCode, *, approved: bool = False) -> None:
    """Have a decision say what the program has loaded."""
    process = ProcessRecord(path="/srv/client", digest="ab" * 32, code=code)
    source = msgspec.structs.replace(DENIAL.record.source, approved=approved)
    record = msgspec.structs.replace(DENIAL.record, process=process, source=source)
    shop.answers["GET /v1/decisions"] = DecisionList(decisions=(msgspec.structs.replace(DENIAL, record=record), DENIAL))


@pytest.mark.parametrize(
    ("code", "check"),
    [
        (LoadedCode(objects=(LIBC,)), "enforce"),
        (LoadedCode(objects=(LIBC,), omitted=1), "report"),
        (LoadedCode(objects=(LIBC, LoadedObject(path="/gone"))), "report"),
    ],
)
def test_what_decisions_saw_loaded_is_shown_and_approved_with_the_program(
    shop: FakeCA, capsys: pytest.CaptureFixture[str], code: LoadedCode, check: str
) -> None:
    see(shop, code)
    assert run(["program", "approve", "shop/client", "--from-decisions", "--yes"]) == ExitCode.SUCCESS
    [request] = shop.asked("POST /v1/programs")
    assert request["code"] == {"objects": [{"path": "/lib/libc.so.6", "digest": "1" * 64}], "check": check}
    assert f"loads /lib/libc.so.6  sha256:{'1' * 64}" in capsys.readouterr().out


def test_what_an_approved_program_has_loaded_since_is_approved_as_one_change(shop: FakeCA) -> None:
    new = LoadedObject(path="/lib/libz.so.1.3", digest="2" * 64)
    see(shop, LoadedCode(objects=(LIBC, new)), approved=True)
    view = ProgramView(
        namespace="shop", name="client-1", service_account="client", programs=(Program(digest="ab" * 32),), weak=False,
        approved_by="", approved=1.0, code=ApprovedCode(objects=(LIBC,)),
    )  # fmt: skip
    shop.answers["GET /v1/programs"] = ProgramList(programs=(view,))
    assert run(["program", "update-code", "shop/client", "--from-decisions", "--yes"]) == ExitCode.SUCCESS
    [request] = shop.asked("POST /v1/programs")
    assert [each["path"] for each in request["code"]["objects"]] == ["/lib/libc.so.6", "/lib/libz.so.1.3"]
