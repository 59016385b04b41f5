"""Decisions: filters go to the CA, rows say what happened."""

from __future__ import annotations

import msgspec
import pytest

from cli.main import run
from cli.text.exit_codes import ExitCode
from shared.model.policy.decision import Answer, PartyRecord, Phase, ProcessRecord
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction, NamespaceState
from shared.model.wire.admin import DecisionList, DecisionView, NamespaceList
from tests.cli.fake_ca import FakeCA
from tests.cli.observations import DENIAL


def test_filters_reach_the_ca_and_the_row_names_the_reason(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    ca.answers["GET /v1/decisions"] = DecisionList(decisions=(DENIAL,))
    arguments = ["decisions", "--denied", "--namespace", "shop", "--workload", "shop/client", "--program", "ABAB"]
    assert run([*arguments, "--limit", "5"]) == ExitCode.SUCCESS
    query = ca.requests[0][1]
    assert (query["denied"], query["namespace"], query["limit"]) == ("true", "shop", "5")
    assert (query["workload"], query["program"]) == ("shop/client", "sha256:abab")
    assert "would_deny" not in query
    row = capsys.readouterr().out.splitlines()[1]
    assert "DENY" in row
    assert "program_not_approved" in row
    assert "unidentified 198.18.0.2:8080" in row


def test_json_is_one_array_of_whole_records(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    ca.answers["GET /v1/decisions"] = DecisionList(decisions=(DENIAL,))
    assert run(["decisions", "--json"]) == ExitCode.SUCCESS
    assert msgspec.json.decode(capsys.readouterr().out, type=list[DecisionView]) == [DENIAL]


def test_follow_prints_one_object_a_line(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    ca.answers["GET /v1/decisions/follow"] = msgspec.json.encode(DENIAL) + b"\n" + msgspec.json.encode(DENIAL) + b"\n"
    assert run(["decisions", "--follow", "--json"]) == ExitCode.SUCCESS
    lines = capsys.readouterr().out.splitlines()
    assert [msgspec.json.decode(line, type=DecisionView) for line in lines] == [DENIAL, DENIAL]


def test_the_beginning_of_a_long_connection_is_told_from_its_end(
    ca: FakeCA, capsys: pytest.CaptureFixture[str]
) -> None:
    begins = msgspec.structs.replace(DENIAL.record, phase=Phase.START, answer=Answer.ALLOW)
    ca.answers["GET /v1/decisions"] = DecisionList(decisions=(DecisionView(id=2, record=begins), DENIAL))
    assert run(["decisions"]) == ExitCode.SUCCESS
    assert capsys.readouterr().out.count("(start)") == 1


def test_it_names_the_command_that_approves_what_was_refused(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    """Each program once, the path where it is known; --weak where it will be asked for."""
    peers_view = msgspec.structs.replace(DENIAL.record, direction=Direction.INGRESS, process=ProcessRecord())
    script = msgspec.structs.replace(
        DENIAL.record, source=PartyRecord(workload="shop/job", program=f"sha256:{'cd' * 32}/main:none")
    )
    withheld = msgspec.structs.replace(
        DENIAL.record,
        direction=Direction.INGRESS,
        reason=Reason.LISTENER_NOT_APPROVED,
        source=PartyRecord(),
        destination=PartyRecord(address="198.18.0.2:8080", workload="shop/web", program=f"sha256:{'ef' * 32}"),
        process=ProcessRecord(pid=8, uid=0, path="/usr/bin/busybox"),
    )
    settled = msgspec.structs.replace(
        DENIAL.record, source=PartyRecord(workload="shop/x", program=f"sha256:{'01' * 32}", approved=True)
    )
    records = (peers_view, DENIAL.record, script, withheld, settled)
    ca.answers["GET /v1/decisions"] = DecisionList(
        decisions=tuple(DecisionView(id=number, record=record) for number, record in enumerate(records, 1))
    )
    assert run(["decisions", "--denied"]) == ExitCode.SUCCESS
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [
        "not approved at that time; review, then run:",
        f"  touchmark program approve shop/client sha256:{'ab' * 32}  # /tmp/intruder",
        f"  touchmark program approve shop/job sha256:{'cd' * 32}/main:none --weak  # /tmp/intruder",
        f"  touchmark program approve shop/web sha256:{'ef' * 32} --weak  # /usr/bin/busybox",
    ]
    assert "unidentified" not in printed.out.splitlines()[2]  # Nobody called: readiness was withheld.
    assert run(["decisions", "--denied", "--json"]) == ExitCode.SUCCESS
    assert capsys.readouterr().err == ""


def test_loaded_code_that_was_refused_is_reviewed_by_one_command_for_the_workload(
    ca: FakeCA, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = msgspec.structs.replace(
        DENIAL.record, reason=Reason.CODE_NOT_APPROVED, source=PartyRecord(workload="shop/client")
    )
    forged = msgspec.structs.replace(refused, source=PartyRecord(workload="shop/web; reboot"))
    views = tuple(DecisionView(id=number, record=each) for number, each in enumerate((refused, refused, forged), 1))
    ca.answers["GET /v1/decisions"] = DecisionList(decisions=views)
    assert run(["decisions", "--denied"]) == ExitCode.SUCCESS
    assert capsys.readouterr().err.splitlines()[1:] == [
        "  touchmark program update-code shop/client --from-decisions  # /tmp/intruder"
    ]


@pytest.mark.parametrize("path", ["/tmp/a\ntouchmark mode shop permissive --yes", "/tmp/\x1b[2J", "/tmp/a; reboot"])
def test_a_path_that_a_shell_might_act_on_isnt_beside_the_command(
    ca: FakeCA, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    record = msgspec.structs.replace(DENIAL.record, process=ProcessRecord(pid=1, uid=0, path=path))
    forged = msgspec.structs.replace(
        record, source=PartyRecord(workload="shop/web; reboot", program=f"sha256:{'ab' * 32}")
    )
    views = tuple(DecisionView(id=number, record=each) for number, each in enumerate((record, forged), 1))
    ca.answers["GET /v1/decisions"] = DecisionList(decisions=views)
    assert run(["decisions", "--denied"]) == ExitCode.SUCCESS
    lines = capsys.readouterr().err.splitlines()
    assert lines[1] == f"  touchmark program approve shop/client sha256:{'ab' * 32}"
    assert lines[2:] == ["    seen at " + path.replace("\n", "\\n").replace("\x1b", "\\x1b")]


def test_the_commands_are_few(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    views = [
        DecisionView(
            id=number,
            record=msgspec.structs.replace(
                DENIAL.record, source=PartyRecord(workload="shop/client", program=f"sha256:{number:064x}")
            ),
        )
        for number in range(7)
    ]
    ca.answers["GET /v1/decisions"] = DecisionList(decisions=tuple(views))
    assert run(["decisions"]) == ExitCode.SUCCESS
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 7
    assert lines[-1] == "  … and 2 more"


def test_detail_says_everything_of_a_refusal_and_what_would_change_it(
    ca: FakeCA, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = msgspec.structs.replace(
        DENIAL.record,
        reason=Reason.NO_RULE,
        source=PartyRecord(address="198.18.0.3:1", workload="bank/teller", program=f"sha256:{'ab' * 32}"),
        destination=PartyRecord(address="198.18.0.2:80", workload="shop/web", program=f"sha256:{'ef' * 32}"),
        direction=Direction.INGRESS,
        namespace="shop",
        sidecar="web-0",
        service="shop/web:80",
        detail="source claimed: 198.18.0.9\nno",
        port=80,
    )
    gone = msgspec.structs.replace(
        refused,
        reason=Reason.DESTINATION_UNREACHABLE,
        direction=Direction.EGRESS,
        destination=PartyRecord(address="198.18.9.9:80"),
        detail="service shop/db has no ready endpoint",
    )
    views = tuple(DecisionView(id=number, record=each) for number, each in enumerate((refused, gone), 1))
    ca.answers["GET /v1/decisions"] = DecisionList(decisions=views)
    ca.answers["GET /v1/namespaces"] = NamespaceList(namespaces=(NamespaceState(namespace="shop"),))
    assert run(["decisions", "--detail"]) == ExitCode.SUCCESS
    printed = capsys.readouterr().out
    for part in (
        "bank/teller, sha256:abab",
        "(not approved), at 198.18.0.3:1",
        "Service shop/web:80",
        "program      /tmp/intruder (pid ",
        "sidecar      web-0",
        "source claimed: 198.18.0.9\\nno",
        f"touchmark program approve bank/teller sha256:{'ab' * 32}",
        "add to spec.rules of MeshPolicy shop/default:",
        "kubectl get endpointslices",
    ):
        assert part in printed, part
    assert run(["decisions", "--detail", "--summary"]) == ExitCode.BAD_INPUT
