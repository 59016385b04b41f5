"""READY, BLOCKED or UNKNOWN, by its exit code too, with what is missing and how it is added."""

from __future__ import annotations

import msgspec
import pytest

from cli.main import run
from cli.text.exit_codes import ExitCode
from shared.model.adoption.fixes import Fix, FixKind, advise
from shared.model.policy.documents import plain_rule
from shared.model.policy.reasons import EXPLANATIONS, Reason
from shared.model.policy.rules import Action, Mode, Peer, PortRange, Rule
from shared.model.wire.admin import Cause, ErrorAnswer, Readiness, ReadinessVerdict
from shared.model.wire.admin_edges import CoverageList, WorkloadCoverage
from tests.cli.commands.test_difference import DENIED
from tests.cli.commands.test_draft import VIEW
from tests.cli.fake_ca import FakeCA

PROGRAM = f"sha256:{'ab' * 32}"
COVERAGE = WorkloadCoverage(
    workload="shop/web",
    pods=3,
    from_start=2,
    silent=0,
    restarts=1,
    records=7,
    lost=0,
    lossy_hours=0,
    hours_seen=1,
    hours_of_day=(9,),
    weekdays=(0,),
    newest=2.0,
    gaps=("1 of 3 pods weren't observed from their start",),
)
RULE = Rule(
    name="bank-teller-to-web-80",
    action=Action.ALLOW,
    workloads=("web",),
    peers=(Peer(namespace="bank", service_account="teller"),),
    ports=(PortRange(first=80, last=80),),
)


def make_cause(fix: Fix | None, reason: Reason = Reason.LISTENER_NOT_APPROVED, **changes: object) -> Cause:
    cause = Cause(
        reason=reason,
        source_workload="bank/teller",
        destination_workload="shop/web",
        source_program=f"sha256:{'cd' * 32}",
        destination_program=PROGRAM,
        port=80,
        connections=7,
        last_seen=2.0,
        first_seen=1.0,
        fix=fix,
        path="/usr/bin/python3.11",
        service="shop/web:80",
        detail="source claimed: 198.18.0.9",
        sidecars=("web-0",),
        side="ingress",
    )
    return msgspec.structs.replace(cause, **changes)


def make_readiness(verdict: ReadinessVerdict | None, *causes: Cause, **changes: object) -> Readiness:
    readiness = Readiness(
        namespace="shop",
        mode=Mode.PERMISSIVE,
        version=3,
        since=0.0,
        causes=causes,
        settled=2,
        is_truncated=False,
        sidecars_reported=1,
        sidecars_total=1,
        silent=(),
        is_safe=not causes,
        verdict=verdict,
        coverage=(COVERAGE,),
    )
    return msgspec.structs.replace(readiness, **changes)


def ask(ca: FakeCA, readiness: Readiness, *arguments: str) -> int:
    ca.answers["GET /v1/namespaces/shop/readiness"] = readiness
    return run(["ready", "shop", *arguments])


def test_ready_ends_with_0_and_shows_what_was_seen(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(ca, make_readiness(ReadinessVerdict.READY), "--workload", "web", "--since", "1h") == ExitCode.SUCCESS
    printed = capsys.readouterr().out
    assert "shop/web: READY (mode now: permissive)" in printed
    assert "settled: 2" in printed
    assert ca.requests[-1][1] == {"since_s": "3600.0", "workload": "shop/web"}


def test_ready_shows_the_same_coverage_as_coverage(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    ca.answers["GET /v1/namespaces/shop/coverage"] = CoverageList(namespace="shop", since=0.0, workloads=(COVERAGE,))
    assert run(["coverage", "shop"]) == ExitCode.SUCCESS
    table = capsys.readouterr().out.rpartition(" ago")[0]
    assert "FROM START" in table
    assert ask(ca, make_readiness(ReadinessVerdict.READY)) == ExitCode.SUCCESS
    printed = capsys.readouterr().out
    assert table in printed
    assert f"shop/web: {COVERAGE.gaps[0]}" in printed


def test_unknown_ends_with_10_and_says_why(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    readiness = make_readiness(ReadinessVerdict.UNKNOWN, unknowns=("shop/db had no connection in this time",))
    assert ask(ca, readiness) == ExitCode.UNKNOWN
    assert "? shop/db had no connection in this time" in capsys.readouterr().out


def test_blocked_ends_with_3_and_names_each_change_with_evidence(
    ca: FakeCA, capsys: pytest.CaptureFixture[str]
) -> None:
    causes = (
        make_cause(Fix(kind=FixKind.APPROVE, workload="shop/web", program=PROGRAM)),
        make_cause(Fix(kind=FixKind.RULE, namespace="shop", rule=RULE), Reason.NO_RULE, is_next=True),
        make_cause(Fix(kind=FixKind.ADVICE, advice="Detach the debugger."), Reason.PROCESS_TRACED),
        make_cause(None, Reason.PEER_UNIDENTIFIED, source_workload="", source_address="192.0.2.7:1", source_program=""),
    )
    gone = make_cause(
        Fix(kind=FixKind.ADVICE), Reason.DESTINATION_UNREACHABLE, detail="service shop/db has no endpoint"
    )
    assert ask(ca, make_readiness(ReadinessVerdict.BLOCKED, *causes, failures=(gone,) * 7)) == ExitCode.CHECK_FAILED
    printed = capsys.readouterr().out
    assert f"touchmark program approve shop/web {PROGRAM} --weak  # /usr/bin/python3.11" in printed
    assert f"if it doesn't belong there: touchmark program refuse shop/web {PROGRAM}\n" in printed
    assert printed.count("if it doesn't belong there") == 1
    assert (
        "bank/teller cdcdcdcdcdcd → shop/web abababababab (/usr/bin/python3.11), port 80, Service shop/web:80"
        in printed
    )
    assert "seen by web-0" in printed
    assert "source claimed: 198.18.0.9" in printed
    assert "add to spec.rules of MeshPolicy shop/default:" in printed
    assert f"- name: {plain_rule(RULE)['name']}" in printed
    assert "no_rule: 7 connections (once the programs are approved)" in printed
    assert "Detach the debugger." in printed
    assert "192.0.2.7 → shop/web" in printed
    assert "destination_unreachable: " in printed
    assert "service shop/db has no endpoint" in printed
    assert "… and 2 more" in printed
    assert "\n\nfailed in any mode" in printed, "the last change may be a rule, whose YAML ends before this"


def test_a_path_that_a_shell_would_act_on_has_a_line_of_its_own(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    approve = Fix(kind=FixKind.APPROVE, workload="shop/web", program=PROGRAM)
    ask(ca, make_readiness(ReadinessVerdict.BLOCKED, make_cause(approve, path="/tmp/a\n; rm -rf x")))
    printed = capsys.readouterr().out
    assert "\n; rm" not in printed
    assert f"touchmark program approve shop/web {PROGRAM}\n" in printed


def test_json_is_the_cas_answer(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(ca, make_readiness(ReadinessVerdict.READY), "--json") == ExitCode.SUCCESS
    assert msgspec.json.decode(capsys.readouterr().out)["verdict"] == "ready"


def test_a_draft_is_named_with_what_it_has_found(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    denied = msgspec.structs.replace(DENIED, connections=1)
    view = msgspec.structs.replace(VIEW, denied=(denied,), settled=(denied, DENIED))
    ca.answers["GET /v1/namespaces/shop/draft"] = view
    assert ask(ca, make_readiness(ReadinessVerdict.READY)) == ExitCode.SUCCESS
    printed = capsys.readouterr().out
    assert "(1 connection newly denied, 8 connections newly denied before and allowed by now)" in printed
    assert "`touchmark policy draft shop`" in printed
    ca.answers["GET /v1/namespaces/shop/draft"] = msgspec.structs.replace(view, denied=(), settled=())
    ask(ca, make_readiness(ReadinessVerdict.READY))
    assert "(nothing changed so far)" in capsys.readouterr().out
    ca.answers["GET /v1/namespaces/shop/draft"] = ErrorAnswer(code="not_allowed", message="no")
    assert ask(ca, make_readiness(ReadinessVerdict.READY)) == ExitCode.SUCCESS
    assert "draft" not in capsys.readouterr().out, "who may not see it is told of what was asked"


def test_an_older_ca_is_named(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(ca, make_readiness(None)) == ExitCode.UNAVAILABLE
    assert "mode shop --check" in capsys.readouterr().err


def test_what_somebody_refused_is_not_said_to_be_refused_by_nobody(
    ca: FakeCA, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = make_cause(Fix(kind=FixKind.ADVICE, advice="alice has refused this program"))
    ask(ca, msgspec.structs.replace(make_readiness(ReadinessVerdict.READY), refused=(refused,)))
    printed = capsys.readouterr().out
    assert "would refuse none of the recorded connections but those of refused programs\n" in printed
    assert "alice has refused this program" in printed


def test_commands_in_what_the_ca_advises_reach_the_same_ca(
    ca: FakeCA, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TOUCHMARK_ADMIN_SOCKET")
    advised = make_cause(Fix(kind=FixKind.ADVICE, advice="to ask again: `touchmark program refuse a/b x --take-back`"))
    where = f"--admin-socket {ca.socket}"
    readiness = msgspec.structs.replace(make_readiness(ReadinessVerdict.BLOCKED, advised), refused=(advised,))
    assert ask(ca, readiness, *where.split()) == ExitCode.CHECK_FAILED
    assert capsys.readouterr().out.count(f"`touchmark program refuse a/b x --take-back {where}`") == 2


def test_advice_does_not_repeat_the_detail_that_stands_above_it(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    detail = "process 83 of the same user may not be inspected"
    cause = make_cause(advise(Reason.HOLDERS_UNKNOWN, detail), Reason.HOLDERS_UNKNOWN, detail=detail)
    assert ask(ca, make_readiness(ReadinessVerdict.BLOCKED, cause)) == ExitCode.CHECK_FAILED
    printed = capsys.readouterr().out
    assert printed.count(detail) == 1
    assert EXPLANATIONS[Reason.HOLDERS_UNKNOWN].fix in printed


def test_a_workload_that_has_no_sidecar_is_what_is_named(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    nobody = msgspec.structs.replace(
        make_readiness(ReadinessVerdict.UNKNOWN),
        workload="shop/bd",
        is_safe=False,
        sidecars_total=0,
        sidecars_reported=0,
    )
    ca.answers["GET /v1/namespaces/shop/readiness"] = nobody
    assert run(["ready", "shop", "--workload", "bd"]) == ExitCode.UNKNOWN
    printed = capsys.readouterr().out
    assert "0 of 0 sidecars of shop/bd reported" in printed
    assert "shop/bd has no live sidecar" in printed
