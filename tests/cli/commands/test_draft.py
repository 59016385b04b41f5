"""`policy apply --draft` and `policy draft`: what is asked, printed, and said by the exit code."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from cli.cluster.draft_object import make_document
from cli.commands import applying
from cli.main import run
from cli.text.exit_codes import ExitCode
from shared.model.adoption.fixes import Fix, FixKind
from shared.model.policy.documents import DraftDocument, MeshPolicyDocument, parse_documents
from shared.model.policy.rules import Action, Mode, NamespaceState, PolicyDraft, Requirement, Rule, WorkloadMode
from shared.model.wire.admin import DraftView, PolicyList, PolicyView, ProgramList
from tests.cli.backends.test_objects import POLICY
from tests.cli.commands.test_difference import DENIED
from tests.cli.fake_ca import FakeCA

ASKED = "GET /v1/namespaces/shop/draft"
RULES = (Rule(name="none", action=Action.DENY),)
VIEW = DraftView(
    namespace="shop",
    draft=PolicyDraft(number=7, rules=RULES),
    written=1_790_000_000.0,
    sidecars=2,
    evaluating=2,
    unchanged=5,
    evaluated_since=1_790_000_060.0,
)
ALONE = """\
apiVersion: touchmark.dev/v1alpha1
kind: MeshPolicy
metadata: {name: default, namespace: shop}
spec:
  mode: explicit
  requires: [ownSockets]
"""


def test_a_draft_is_written_without_the_checks_of_a_switch(
    ca: FakeCA, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ca.answers["PUT /v1/namespaces/shop/draft"] = NamespaceState(namespace="shop", version=3)
    file = tmp_path / "shop.yaml"
    file.write_text(ALONE)
    assert run(["policy", "apply", "-f", str(file), "--draft"]) == ExitCode.SUCCESS
    assert ca.asked("PUT /v1/namespaces/shop/draft") == [{"mode": "explicit", "requires": ["ownSockets"]}]
    printed = capsys.readouterr()
    assert "draft MeshPolicy shop/default written (version 3); nothing of it is in force" in printed.out
    assert "ownSockets" in printed.err, "what sidecars can't tell is said"
    assert "`touchmark policy draft shop` shows" in printed.err, "what to do next is said"
    assert run(["policy", "apply", "-f", str(file), "--draft", "--json"]) == ExitCode.SUCCESS
    (written,) = msgspec.json.decode(capsys.readouterr().out)
    assert (written["kind"], written["is_draft"]) == ("MeshPolicy", True)
    assert run(["policy", "apply", "-f", str(file), "--draft", "--force"]) == ExitCode.BAD_INPUT
    assert "--promote" in capsys.readouterr().err


def test_a_program_is_no_draft(ca: FakeCA, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text(POLICY)
    assert run(["policy", "apply", "-f", str(file), "--draft"]) == ExitCode.BAD_INPUT
    assert "a Program can't be a draft" in capsys.readouterr().err
    assert not ca.requests


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, ExitCode.SUCCESS),
        ({"denied": (DENIED,)}, ExitCode.CHECK_FAILED),
        ({"evaluating": 1, "waiting": ("web-1",)}, ExitCode.UNKNOWN),
        ({"sidecars": 0, "evaluating": 0}, ExitCode.UNKNOWN),
        ({"is_truncated": True}, ExitCode.UNKNOWN),
        ({"uncounted": 4}, ExitCode.UNKNOWN),
        ({"evaluated_since": None}, ExitCode.UNKNOWN),
        ({"is_partly_unknown": True}, ExitCode.UNKNOWN),
    ],
)
def test_the_exit_code_says_whether_it_is_safe(
    ca: FakeCA, capsys: pytest.CaptureFixture[str], changes: dict[str, object], code: ExitCode
) -> None:
    view = msgspec.structs.replace(VIEW, **changes)
    ca.answers[ASKED] = view
    assert run(["policy", "draft", "shop", "--json"]) == code
    assert msgspec.json.decode(capsys.readouterr().out, type=DraftView) == view
    assert run(["policy", "draft", "shop"]) == code
    printed = capsys.readouterr().out
    assert "draft 7 of shop" in printed
    since = "; its first verdict is of 20" if view.evaluated_since else "\n"
    assert f"{view.evaluating} of {view.sidecars} sidecars evaluate it{since}" in printed
    assert ("? no verdict of it has come from" in printed) is (view.evaluated_since is None)
    assert ("some connections have no verdict" in printed) is view.is_partly_unknown
    assert ("? 4 more were lost, or had no room" in printed) is bool(view.uncounted)
    assert ("✗ newly denied: 7 connections" in printed) is bool(view.denied)
    assert ("older release: web-1" in printed) is bool(view.waiting)
    assert ("? no sidecar evaluates it yet" in printed) is (not view.evaluating)
    has_looked = bool(view.evaluating) and view.evaluated_since is not None
    assert ("✓" in printed) is (has_looked and not view.denied), "nobody has looked: nothing is well"


def test_what_would_let_connections_pass_is_printed_once(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    fixes = (
        Fix(kind=FixKind.APPROVE, workload="shop/web", program="sha256:" + "ab" * 32),
        Fix(kind=FixKind.RULE, namespace="shop", rule=Rule(name="web-to-db-5432", action=Action.ALLOW)),
        Fix(kind=FixKind.RULE, namespace="bank", rule=Rule(name="web-to-bank-1", action=Action.ALLOW)),
    )
    denied = msgspec.structs.replace(DENIED, fixes=fixes)
    ca.answers[ASKED] = msgspec.structs.replace(VIEW, denied=(denied, msgspec.structs.replace(denied, port=1)))
    assert run(["policy", "draft", "shop"]) == ExitCode.CHECK_FAILED
    printed = capsys.readouterr().out
    assert printed.count("touchmark program approve shop/web sha256:abab") == 1
    assert printed.count("add to spec.rules of the draft: `touchmark policy draft shop --yaml` prints it") == 1
    assert printed.count("- name: web-to-db-5432") == 1
    assert printed.count("add to spec.rules of MeshPolicy bank/default:") == 1


def test_one_connection_is_one(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    ca.answers[ASKED] = msgspec.structs.replace(
        VIEW, denied=(msgspec.structs.replace(DENIED, connections=1),), unchanged=1
    )
    run(["policy", "draft", "shop"])
    printed = capsys.readouterr().out
    assert "newly denied: 1 connection\n" in printed
    assert "unchanged: 1 connection\n" in printed


def test_only_the_reporters_own_program_has_its_path(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    """The path is its word for its own program: beside the peer's digest it would speak for another program."""
    own = Fix(kind=FixKind.APPROVE, workload="shop/web", program="sha256:" + "ab" * 32)
    peer = Fix(kind=FixKind.APPROVE, workload="bank/teller", program=DENIED.source_program)
    python = msgspec.structs.replace(
        DENIED, destination_program=own.program, path="/usr/bin/python3.11", fixes=(own, peer)
    )
    ca.answers[ASKED] = msgspec.structs.replace(VIEW, denied=(python,))
    run(["policy", "draft", "shop"])
    of_own, of_peer = (line for line in capsys.readouterr().out.splitlines() if "program approve" in line)
    assert f"approve shop/web {own.program} --weak " in of_own, "an interpreter's approval is weak, and says so"
    assert of_own.endswith("# /usr/bin/python3.11")
    assert f"approve bank/teller {peer.program} " in f"{of_peer} "
    assert "--weak" not in of_peer
    assert "python" not in of_peer


def test_a_draft_is_printed_as_the_policy_that_it_would_be(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    ca.answers[ASKED] = VIEW
    assert run(["policy", "draft", "shop", "--yaml"]) == ExitCode.SUCCESS
    assert parse_documents(capsys.readouterr().out) == [make_document(VIEW)]
    assert make_document(VIEW) == MeshPolicyDocument(namespace="shop", rules=RULES)


def test_a_draft_of_the_mode_alone_is_the_policy_in_force_in_that_mode(
    ca: FakeCA, capsys: pytest.CaptureFixture[str]
) -> None:
    ca.answers["PUT /v1/namespaces/shop/draft"] = NamespaceState(namespace="shop", version=3)
    policy = PolicyView(namespace="shop", version=2, mode=Mode.PERMISSIVE, group_label="team", rules=RULES)
    ca.answers["GET /v1/programs"] = ProgramList(programs=())
    for policies in ((policy,), ()):
        ca.answers["GET /v1/policies"] = PolicyList(policies=policies)
        assert run(["policy", "draft", "shop", "--mode", "explicit"]) == ExitCode.SUCCESS
    first, second = ca.asked("PUT /v1/namespaces/shop/draft")
    rules = [{"name": "none", "action": "deny"}]
    assert first == {"mode": "explicit", "group_label": "team", "rules": rules, "is_first": True}
    assert second == {"mode": "explicit", "is_first": True}
    assert "draft MeshPolicy shop/default written (version 3); nothing of it is in force" in capsys.readouterr().out
    assert run(["policy", "draft", "shop", "--mode", "lax"]) == ExitCode.BAD_INPUT


def test_a_draft_is_dropped(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    ca.answers["DELETE /v1/namespaces/shop/draft"] = NamespaceState(namespace="shop")
    assert run(["policy", "draft", "shop", "--drop"]) == ExitCode.SUCCESS
    assert "draft of shop dropped" in capsys.readouterr().out
    assert run(["policy", "draft", "shop", "--drop", "--json"]) == ExitCode.SUCCESS
    assert msgspec.json.decode(capsys.readouterr().out) == {"deleted": ["draft shop"]}
    assert run(["policy", "draft", "shop", "--drop", "--promote"]) == ExitCode.BAD_INPUT


def test_the_draft_that_was_looked_at_is_put_in_force(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    ca.answers[ASKED] = VIEW
    promoted = PolicyView(namespace="shop", version=9, mode=Mode.PERMISSIVE, group_label="", rules=RULES)
    ca.answers["POST /v1/namespaces/shop/draft/promote"] = promoted
    assert run(["policy", "draft", "shop", "--promote"]) == ExitCode.SUCCESS
    assert ca.asked("POST /v1/namespaces/shop/draft/promote") == [{"number": 7}]
    assert "MeshPolicy shop/default applied (version 9)" in capsys.readouterr().out


def test_a_draft_that_lint_finds_in_error_is_put_in_force_by_ignore_lint_alone(
    ca: FakeCA, capsys: pytest.CaptureFixture[str]
) -> None:
    """As by `policy apply`, whose checks it says it runs."""
    allow = Rule(name="all", action=Action.ALLOW)
    vain = msgspec.structs.replace(VIEW.draft, rules=(*RULES, allow))
    ca.answers[ASKED] = msgspec.structs.replace(VIEW, draft=vain)
    promoted = PolicyView(namespace="shop", version=9, mode=Mode.PERMISSIVE, group_label="", rules=RULES)
    ca.answers["POST /v1/namespaces/shop/draft/promote"] = promoted
    assert run(["policy", "draft", "shop", "--promote"]) == ExitCode.REFUSED
    assert not ca.asked("POST /v1/namespaces/shop/draft/promote")
    said = capsys.readouterr().err
    assert "✗ shop/all: contradictory" in said
    assert "--ignore-lint applies it all the same" in said
    assert run(["policy", "draft", "shop", "--promote", "--force"]) == ExitCode.REFUSED
    assert run(["policy", "draft", "shop", "--promote", "--ignore-lint"]) == ExitCode.SUCCESS


def test_a_draft_that_would_take_newer_rules_back_is_put_in_force_by_force_alone(
    ca: FakeCA, capsys: pytest.CaptureFixture[str]
) -> None:
    ca.answers[ASKED] = msgspec.structs.replace(VIEW, is_outdated=True)
    promoted = PolicyView(namespace="shop", version=9, mode=Mode.PERMISSIVE, group_label="", rules=RULES)
    ca.answers["POST /v1/namespaces/shop/draft/promote"] = promoted
    assert run(["policy", "draft", "shop", "--promote"]) == ExitCode.CONFLICT
    assert not ca.asked("POST /v1/namespaces/shop/draft/promote")
    run(["policy", "draft", "shop"])
    assert "the policy in force has changed since it was written" in capsys.readouterr().out
    assert run(["policy", "draft", "shop", "--promote", "--force"]) == ExitCode.SUCCESS
    assert ca.asked("POST /v1/namespaces/shop/draft/promote") == [{"number": 7, "force": True, "takes_back": True}]


def test_explicit_isnt_promoted_while_nobody_knows_what_it_would_refuse(
    ca: FakeCA, capsys: pytest.CaptureFixture[str]
) -> None:
    """``applying.check_explicit`` is that of ``policy apply``."""
    assert applying.check_explicit.__module__ == "cli.commands.applying"
    explicit = PolicyDraft(number=7, mode=Mode.EXPLICIT, requires=(Requirement.OWN_SOCKETS,))
    ca.answers[ASKED] = msgspec.structs.replace(VIEW, draft=explicit)
    assert run(["policy", "draft", "shop", "--promote"]) == ExitCode.REFUSED
    assert not ca.asked("POST /v1/namespaces/shop/draft/promote")
    assert "nothing is applied" in capsys.readouterr().err


def test_what_is_allowed_by_now_is_told_apart_and_no_reason_to_wait(
    ca: FakeCA, capsys: pytest.CaptureFixture[str]
) -> None:
    ca.answers[ASKED] = msgspec.structs.replace(VIEW, settled=(DENIED,))
    assert run(["policy", "draft", "shop"]) == ExitCode.SUCCESS
    printed = capsys.readouterr().out
    assert "newly denied before, and allowed by now: 7 connections" in printed
    assert "✗" not in printed


def test_a_drafted_mode_takes_no_other_drafts_place_unasked(ca: FakeCA) -> None:
    ca.answers["GET /v1/policies"] = PolicyList(policies=())
    ca.answers["GET /v1/programs"] = ProgramList(programs=())
    ca.answers["PUT /v1/namespaces/shop/draft"] = NamespaceState(namespace="shop", version=3)
    for options in ((), ("--replace",)):
        assert run(["policy", "draft", "shop", "--mode", "explicit", *options]) == ExitCode.SUCCESS
    assert ca.asked("PUT /v1/namespaces/shop/draft") == [{"mode": "explicit", "is_first": True}, {"mode": "explicit"}]
    assert run(["policy", "draft", "shop", "--drop", "--replace"]) == ExitCode.BAD_INPUT


DRAFT_OBJECT = """\
apiVersion: touchmark.dev/v1alpha1
kind: MeshPolicy
metadata: {name: draft, namespace: shop}
spec: {draft: true, mode: explicit, workloadModes: {db: permissive}}
"""


def test_a_file_that_says_draft_writes_and_deletes_the_draft_and_no_policy(ca: FakeCA, tmp_path: Path) -> None:
    file = tmp_path / "draft.yaml"
    file.write_text(DRAFT_OBJECT)
    ca.answers["PUT /v1/namespaces/shop/draft"] = NamespaceState(namespace="shop", version=3)
    ca.answers["DELETE /v1/namespaces/shop/draft"] = NamespaceState(namespace="shop")
    written = {"mode": "explicit", "workload_modes": [{"service_account": "db", "mode": "permissive"}]}
    for options in ((), ("--draft",)):
        assert run(["policy", "apply", "-f", str(file), "--ignore-lint", *options]) == ExitCode.SUCCESS
    assert ca.asked("PUT /v1/namespaces/shop/draft") == [written, written]
    assert run(["policy", "delete", "-f", str(file)]) == ExitCode.SUCCESS
    asked = {name for name, _, _ in ca.requests}
    assert "DELETE /v1/namespaces/shop/draft" in asked
    assert not any(name.startswith(("PUT /v1/policies", "DELETE /v1/policies")) for name in asked)


def test_an_objects_draft_says_so_and_is_printed_as_that_object(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    modes = (WorkloadMode(service_account="db", mode=Mode.EXPLICIT),)
    drafted = msgspec.structs.replace(VIEW.draft, workload_modes=modes)
    ca.answers[ASKED] = msgspec.structs.replace(VIEW, draft=drafted, is_object=True)
    assert run(["policy", "draft", "shop"]) == ExitCode.SUCCESS
    printed = capsys.readouterr().out
    assert "it is what MeshPolicy shop/draft says: edit that object, or delete it" in printed
    assert "modes of workloads: db explicit" in printed
    assert run(["policy", "draft", "shop", "--yaml"]) == ExitCode.SUCCESS
    policy = MeshPolicyDocument(namespace="shop", rules=RULES, workload_modes=modes)
    assert parse_documents(capsys.readouterr().out) == [DraftDocument(policy=policy)]
