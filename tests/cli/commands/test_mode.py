"""The switch to explicit first shows what it would refuse, then waits until every sidecar has confirmed."""

from __future__ import annotations

import msgspec
import pytest

from cli.main import run
from cli.text.exit_codes import ExitCode
from shared.model.adoption.fixes import Fix, FixKind
from shared.model.identity.program import parse_program
from shared.model.policy.modes import make_modes
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Approval, Mode, NamespaceState
from shared.model.wire.admin import (
    Acknowledgements,
    Cause,
    ErrorAnswer,
    NamespaceList,
    Readiness,
    ReadinessVerdict,
    SidecarList,
)
from tests.cli.fake_ca import FakeCA

PROGRAM = f"sha256:{'ab' * 32}"
CAUSE = Cause(
    reason=Reason.PROGRAM_NOT_APPROVED,
    source_workload="shop/client",
    destination_workload="shop/web",
    source_program=PROGRAM,
    destination_program="",
    port=8080,
    connections=7,
    last_seen=1.0,
)


def make_readiness(*causes: Cause) -> Readiness:
    return Readiness(
        namespace="shop",
        mode=Mode.PERMISSIVE,
        version=3,
        since=0.0,
        causes=causes,
        settled=0,
        is_truncated=False,
        sidecars_reported=2,
        sidecars_total=2,
        silent=(),
        is_safe=not causes,
    )


def make_acknowledgements(*waiting: str) -> Acknowledgements:
    return Acknowledgements(namespace="shop", version=4, installed=2 - len(waiting), total=2, waiting=waiting)


@pytest.fixture
def shop(ca: FakeCA) -> FakeCA:
    ca.answers["GET /v1/namespaces/shop/readiness"] = make_readiness()
    ca.answers["PUT /v1/namespaces/shop/mode"] = NamespaceState(namespace="shop", version=4, mode=Mode.EXPLICIT)
    ca.answers["GET /v1/namespaces/shop"] = NamespaceState(namespace="shop", version=4, mode=Mode.EXPLICIT)
    ca.answers["GET /v1/namespaces/shop/acknowledgements"] = make_acknowledgements()
    return ca


def test_check_shows_the_causes_and_ends_with_3_without_switching(
    shop: FakeCA, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.answers["GET /v1/namespaces/shop/readiness"] = make_readiness(CAUSE)
    assert run(["mode", "shop", "explicit", "--check"]) == ExitCode.CHECK_FAILED
    printed = capsys.readouterr().out
    assert "program_not_approved" in printed
    assert "2 of 2 sidecars" in printed
    assert not shop.asked("PUT /v1/namespaces/shop/mode")


def test_check_ends_with_0_when_nothing_would_be_refused(shop: FakeCA) -> None:
    assert run(["mode", "shop", "--check", "--json"]) == ExitCode.SUCCESS


def test_a_blocked_switch_changes_nothing_and_lists_the_fixes(shop: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    approve = Fix(kind=FixKind.APPROVE, workload="shop/client", program=PROGRAM)
    cause = msgspec.structs.replace(CAUSE, fix=approve)
    for verdict in (ReadinessVerdict.BLOCKED, None):
        readiness = msgspec.structs.replace(make_readiness(cause), verdict=verdict)
        shop.answers["GET /v1/namespaces/shop/readiness"] = readiness
        assert run(["mode", "shop", "explicit", "--yes"]) == ExitCode.REFUSED
        printed = capsys.readouterr()
        assert f"touchmark program approve shop/client {PROGRAM}" in printed.out
        assert "error[blocked]: shop is unchanged" in printed.err
        assert run(["mode", "shop", "explicit", "--yes", "--json"]) == ExitCode.REFUSED
        printed = capsys.readouterr()
        assert msgspec.json.decode(printed.err)["code"] == "blocked"
        assert msgspec.json.decode(printed.out, type=Readiness).causes == (cause,)
    assert not shop.asked("PUT /v1/namespaces/shop/mode")


def test_unknown_asks_and_without_a_terminal_only_yes_goes_on(shop: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    unknown = msgspec.structs.replace(make_readiness(), verdict=ReadinessVerdict.UNKNOWN, unknowns=("shop/db is new",))
    shop.answers["GET /v1/namespaces/shop/readiness"] = unknown
    assert run(["mode", "shop", "explicit"]) == ExitCode.REFUSED
    printed = capsys.readouterr()
    assert "? shop/db is new" in printed.out
    assert "error[refused]: shop is unchanged: too little was seen" in printed.err
    assert not shop.asked("PUT /v1/namespaces/shop/mode")
    assert run(["mode", "shop", "explicit", "--yes"]) == ExitCode.SUCCESS
    assert shop.asked("PUT /v1/namespaces/shop/mode")


def test_force_switches_all_the_same_and_waits_for_both_sidecars(
    shop: FakeCA, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.answers["GET /v1/namespaces/shop/readiness"] = make_readiness(CAUSE)
    shop.answers["GET /v1/namespaces/shop/acknowledgements"] = [make_acknowledgements("web"), make_acknowledgements()]
    assert run(["mode", "shop", "explicit", "--force"]) == ExitCode.SUCCESS
    assert shop.asked("PUT /v1/namespaces/shop/mode") == [{"mode": "explicit", "force": True}]
    printed = capsys.readouterr()
    assert "in force in 1 of 2 sidecars" in printed.err
    assert "in force in all 2 sidecars" in printed.out


def test_what_was_looked_at_is_what_is_switched(shop: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    late = "namespace shop is no longer at version 3"
    shop.answers["PUT /v1/namespaces/shop/mode"] = ErrorAnswer(code="conflict", message=late)
    assert run(["mode", "shop", "explicit", "--since", "2h"]) == ExitCode.CONFLICT
    assert f"error[conflict]: {late}" in capsys.readouterr().err
    assert shop.asked("PUT /v1/namespaces/shop/mode") == [
        {"mode": "explicit", "expected_version": 3, "since_s": 7200.0}
    ]


def test_where_every_sidecar_has_confirmed_at_once_no_progress_is_shown(
    shop: FakeCA, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["mode", "shop", "explicit"]) == ExitCode.SUCCESS
    printed = capsys.readouterr()
    assert "sidecars" not in printed.err
    assert "in force in all 2 sidecars" in printed.out


def test_a_laggard_is_named_and_ends_with_9(shop: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    shop.answers["GET /v1/namespaces/shop/acknowledgements"] = make_acknowledgements("web-7")
    assert run(["mode", "shop", "explicit", "--timeout", "0.1"]) == ExitCode.DEADLINE
    assert "web-7" in capsys.readouterr().err


def test_to_permissive_asks_nothing(shop: FakeCA) -> None:
    assert run(["mode", "shop", "permissive"]) == ExitCode.SUCCESS
    assert not shop.asked("GET /v1/namespaces/shop/readiness")


def test_a_namespace_of_which_nothing_is_known_is_named_as_such(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    ca.answers["GET /v1/namespaces/nowhere"] = NamespaceState(namespace="nowhere", version=0, mode=Mode.PERMISSIVE)
    ca.answers["GET /v1/namespaces/nowhere/acknowledgements"] = Acknowledgements(
        namespace="nowhere", version=0, installed=0, total=0, waiting=()
    )
    assert run(["mode", "nowhere"]) == ExitCode.SUCCESS
    assert "unknown namespace" in capsys.readouterr().err


def test_of_a_namespace_that_nobody_knows_nothing_is_judged(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a misspelt one nothing was seen: the check ended as that of a namespace where nothing is missing."""
    empty = msgspec.structs.replace(
        make_readiness(), namespace="shpo", version=0, sidecars_total=0, sidecars_reported=0
    )
    nobody = Acknowledgements(namespace="shpo", version=0, installed=0, total=0, waiting=())
    ca.answers["GET /v1/namespaces/shpo"] = NamespaceState(namespace="shpo", version=0, mode=Mode.PERMISSIVE)
    ca.answers["GET /v1/namespaces/shpo/acknowledgements"] = nobody
    ca.answers["GET /v1/namespaces/shpo/readiness"] = empty
    ca.answers["GET /v1/sidecars"] = SidecarList(sidecars=())
    ca.answers["GET /v1/namespaces"] = NamespaceList(namespaces=(NamespaceState(namespace="shop"),))
    for arguments in (["--check"], ["explicit", "--check"], ["--check", "--json"]):
        assert run(["mode", "shpo", *arguments]) == ExitCode.NOT_FOUND
        said = capsys.readouterr().err
        assert "there is no namespace shpo" in said and "did you mean shop?" in said
    assert run(["mode", "shpo", "--check", "--force"]) == ExitCode.SUCCESS
    ca.answers["GET /v1/namespaces"] = NamespaceList(namespaces=(NamespaceState(namespace="shpo"),))
    assert run(["mode", "shpo", "--check"]) == ExitCode.SUCCESS
    ca.answers["GET /v1/namespaces"] = ErrorAnswer(code="unavailable", message="the store is away")
    assert run(["mode", "shpo", "--check"]) == ExitCode.SUCCESS
    assert "can't tell whether there is a namespace shpo" in capsys.readouterr().err


def test_no_mode_is_set_for_a_namespace_that_nobody_knows_but_by_force(
    ca: FakeCA, capsys: pytest.CaptureFixture[str]
) -> None:
    """A slip of the finger left a mode in force for nothing, and the namespace that was meant as it was."""
    ca.answers["GET /v1/namespaces/shpo"] = NamespaceState(namespace="shpo", version=0, mode=Mode.PERMISSIVE)
    nobody = Acknowledgements(namespace="shpo", version=0, installed=0, total=0, waiting=())
    ca.answers["GET /v1/namespaces/shpo/acknowledgements"] = nobody
    ca.answers["GET /v1/namespaces/shpo/readiness"] = msgspec.structs.replace(
        make_readiness(), namespace="shpo", version=0, sidecars_total=0, sidecars_reported=0
    )
    ca.answers["GET /v1/sidecars"] = SidecarList(sidecars=())
    ca.answers["GET /v1/namespaces"] = NamespaceList(namespaces=(NamespaceState(namespace="shop"),))
    ca.answers["PUT /v1/namespaces/shpo/mode"] = NamespaceState(namespace="shpo", version=1, mode=Mode.EXPLICIT)
    for arguments in (["explicit", "--yes"], ["permissive"], ["permissive", "--for", "1h"]):
        assert run(["mode", "shpo", *arguments]) == ExitCode.NOT_FOUND
        said = capsys.readouterr().err
        assert "there is no namespace shpo: its mode would be in force for nothing" in said
        assert "did you mean shop?; --force sets its mode all the same" in said
    assert not ca.asked("PUT /v1/namespaces/shpo/mode")
    assert run(["mode", "shpo", "explicit", "--force"]) == ExitCode.SUCCESS
    assert ca.asked("PUT /v1/namespaces/shpo/mode") == [{"mode": "explicit", "force": True}]


def test_without_the_ca_s_look_ahead_only_yes_goes_on(shop: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    shop.answers["GET /v1/namespaces/shop/readiness"] = ErrorAnswer(code="unavailable", message="the store is away")
    assert run(["mode", "shop", "explicit"]) == ExitCode.UNAVAILABLE
    assert run(["mode", "shop", "--check"]) == ExitCode.UNAVAILABLE
    assert not shop.asked("PUT /v1/namespaces/shop/mode")
    assert run(["mode", "shop", "explicit", "--force"]) == ExitCode.SUCCESS
    assert "explicit mode would refuse: the store is away" in capsys.readouterr().err


OWN = make_modes({"db": Mode.EXPLICIT})


def test_a_workload_is_asked_about_switched_and_named(shop: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    ready = msgspec.structs.replace(make_readiness(), workload="shop/db", verdict=ReadinessVerdict.READY)
    shop.answers["GET /v1/namespaces/shop/readiness"] = ready
    shop.answers["GET /v1/namespaces/shop"] = NamespaceState(namespace="shop", version=4, workload_modes=OWN)
    assert run(["mode", "shop", "explicit", "--workload", "db"]) == ExitCode.SUCCESS
    assert shop.asked("PUT /v1/namespaces/shop/mode") == [
        {"mode": "explicit", "workloads": ["db"], "expected_version": 3}
    ]
    printed = capsys.readouterr().out
    assert "shop/db is explicit, a mode of its own" in printed
    assert "shop is permissive: version 4 is in force in all 2 sidecars" in printed
    assert run(["mode", "shop"]) == ExitCode.SUCCESS
    assert "workloads with a mode of their own: db explicit" in capsys.readouterr().out
    assert run(["mode", "shop", "--json"]) == ExitCode.SUCCESS
    assert msgspec.json.decode(capsys.readouterr().out)["workload_modes"] == [
        {"service_account": "db", "mode": "explicit"}
    ]


def test_a_workload_that_nobody_knows_gets_no_mode_without_force(
    shop: FakeCA, capsys: pytest.CaptureFixture[str]
) -> None:
    ready = msgspec.structs.replace(make_readiness(), workload="shop/bd", verdict=ReadinessVerdict.READY)
    shop.answers["GET /v1/namespaces/shop/readiness"] = ready
    shop.answers["GET /v1/sidecars"] = SidecarList(sidecars=())
    approved = Approval(service_account="db", program=parse_program(PROGRAM))
    shop.answers["GET /v1/namespaces"] = NamespaceList(
        namespaces=(NamespaceState(namespace="shop", approvals=(approved,)), NamespaceState(namespace="bank"))
    )
    for mode in ("explicit", "permissive"):
        assert run(["mode", "shop", mode, "-w", "bd"]) == ExitCode.NOT_FOUND
        said = capsys.readouterr().err
        assert "there is no workload shop/bd" in said
        assert "did you mean db?" in said
    assert run(["mode", "shop", "--check", "-w", "bd"]) == ExitCode.NOT_FOUND
    assert not shop.asked("PUT /v1/namespaces/shop/mode")
    gone = msgspec.structs.replace(ready, workload="shop/db", sidecars_total=0, sidecars_reported=0)
    shop.answers["GET /v1/namespaces/shop/readiness"] = gone
    assert run(["mode", "shop", "--check", "-w", "db"]) == ExitCode.CHECK_FAILED, "it has no live sidecar"
    assert run(["mode", "shop", "--check", "-w", "bd", "--force"]) == ExitCode.CHECK_FAILED
    shop.answers["GET /v1/namespaces/shop/readiness"] = ready
    assert run(["mode", "shop", "permissive", "-w", "db"]) == ExitCode.SUCCESS
    assert run(["mode", "shop", "permissive", "-w", "bd", "--force"]) == ExitCode.SUCCESS
    assert run(["mode", "shop", "inherit", "-w", "bd", "--yes"]) == ExitCode.SUCCESS, "what stands there can go"


def test_a_blocked_workload_is_named_with_its_own_command(shop: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    blocked = msgspec.structs.replace(make_readiness(CAUSE), workload="shop/db", verdict=ReadinessVerdict.BLOCKED)
    shop.answers["GET /v1/namespaces/shop/readiness"] = blocked
    assert run(["mode", "shop", "explicit", "-w", "shop/db"]) == ExitCode.REFUSED
    said = capsys.readouterr().err
    assert "shop/db is unchanged" in said
    assert "`touchmark ready shop --workload db`" in said
    assert run(["mode", "shop", "--check", "-w", "db"]) == ExitCode.CHECK_FAILED
    assert not shop.asked("PUT /v1/namespaces/shop/mode")


def test_to_inherit_permissive_asks_nothing_and_explicit_asks_first(shop: FakeCA) -> None:
    blocked = msgspec.structs.replace(make_readiness(CAUSE), workload="shop/db", verdict=ReadinessVerdict.BLOCKED)
    shop.answers["GET /v1/namespaces/shop/readiness"] = blocked
    assert run(["mode", "shop", "inherit", "-w", "db"]) == ExitCode.REFUSED, "shop is explicit"
    shop.answers["GET /v1/namespaces/shop"] = NamespaceState(namespace="shop", version=4, workload_modes=OWN)
    assert run(["mode", "shop", "inherit", "-w", "db", "-w", "web", "--for", "10m"]) == ExitCode.SUCCESS
    assert shop.asked("PUT /v1/namespaces/shop/mode") == [{"mode": None, "workloads": ["db", "web"], "for_s": 600.0}]


@pytest.mark.parametrize(
    "words",
    [
        ["inherit"],
        ["history", "--workload", "db"],
        ["confirm", "--workload", "db"],
        ["explicit", "--workload", "bank/db"],
        ["explicit", "--workload", "No Name"],
        ["--workload", "db"],
        ["--check", "--json", "--workload", "db", "--workload", "web"],
    ],
)
def test_what_a_workload_has_no_meaning_for_is_refused(
    shop: FakeCA, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert run(["mode", "shop", *words]) == ExitCode.BAD_INPUT
    assert "hint" in capsys.readouterr().err or "No Name" in words
    assert not shop.asked("PUT /v1/namespaces/shop/mode")
