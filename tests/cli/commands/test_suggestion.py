"""Suggested policies are policies: they are read again, and hold what is missing."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from cli.backends.target import Target, write_shell_options
from cli.commands.suggestion import write_suggestion
from cli.main import run
from cli.text.exit_codes import ExitCode
from shared.model.adoption.fixes import Fix, FixKind
from shared.model.policy.documents import MeshPolicyDocument, parse_documents
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Action, Direction, Mode, Peer, PortRange, Requirement, Rule
from shared.model.wire.admin import PolicyList, ProgramList, ReadinessVerdict
from tests.cli.commands.test_ready import PROGRAM, RULE, make_cause, make_readiness
from tests.cli.fake_ca import FakeCA

NEEDS_RULE = make_cause(Fix(kind=FixKind.RULE, namespace="shop", rule=RULE), Reason.NO_RULE)
NEEDS_APPROVAL = make_cause(Fix(kind=FixKind.APPROVE, workload="shop/web", program=PROGRAM), path="/a\n- name: x")
ADVISED = make_cause(Fix(kind=FixKind.ADVICE, advice="Detach\nthe debugger."), Reason.PROCESS_TRACED)


@pytest.mark.parametrize(
    "current",
    [
        None,
        MeshPolicyDocument(namespace="shop"),
        MeshPolicyDocument(namespace="shop", mode=Mode.PERMISSIVE, requires=(Requirement.MATCHING_ADDRESS,)),
        MeshPolicyDocument(namespace="shop", group_label="team", rules=(RULE,)),
    ],
)
def test_what_is_written_is_the_policy_in_force_with_what_is_missing(current: MeshPolicyDocument | None) -> None:
    readiness = make_readiness(
        ReadinessVerdict.BLOCKED, ADVISED, NEEDS_RULE, NEEDS_APPROVAL, unknowns=("shop/db had no connection",)
    )
    text = write_suggestion(readiness, {"shop": current} if current else {}, target_options="")
    [document] = parse_documents(text, "suggested.yaml")
    assert isinstance(document, MeshPolicyDocument)
    kept = current or MeshPolicyDocument(namespace="shop")
    assert (document.mode, document.group_label, document.requires) == (kept.mode, kept.group_label, kept.requires)
    expected = RULE if not kept.rules else msgspec.structs.replace(RULE, name=f"{RULE.name}-2")
    assert document.rules == (*kept.rules, expected)
    for part in ("# 7 connections, such as bank/teller", f"# touchmark program approve shop/web {PROGRAM}"):
        assert part in text
    assert "# not known: shop/db had no connection" in text
    assert "# process_traced: " in text


def test_a_command_reaches_the_same_cluster() -> None:
    target = Target(in_cluster=True, context="the other", kubeconfig="/k 1")
    options = write_shell_options(target, {"KUBECONFIG": "/another"})
    text = write_suggestion(make_readiness(ReadinessVerdict.BLOCKED, NEEDS_APPROVAL), {}, target_options=options)
    assert f"# touchmark program approve shop/web {PROGRAM} -k --context 'the other' --kubeconfig '/k 1'" in text
    assert write_shell_options(target, {"KUBECONFIG": "/k 1"}) == "-k --context 'the other'"
    here = Target(admin_socket=Path("/s"))
    assert write_shell_options(here, {}) == "--admin-socket /s"
    assert write_shell_options(here, {"TOUCHMARK_ADMIN_SOCKET": "/s"}) == ""
    assert write_shell_options(Target(), {"KUBECONFIG": ""}) == ""


def test_a_rule_for_endpoints_outside_the_mesh_says_which_service_was_dialled() -> None:
    """No rule names a Service; who reviews the addresses must see which one they belong to."""
    rule = Rule(
        name="web-to-198.18.0.9-6443",
        action=Action.ALLOW,
        direction=Direction.EGRESS,
        workloads=("web",),
        peers=(Peer(unidentified=True, cidrs=("198.18.0.9/32",)),),
        ports=(PortRange(first=6443, last=6443),),
    )
    cause = make_cause(
        Fix(kind=FixKind.RULE, namespace="shop", rule=rule),
        Reason.EGRESS_NOT_ALLOWED,
        source_workload="shop/web",
        destination_workload="",
        destination_program="",
        destination_address="198.18.0.9:6443",
        port=6443,
        service="default/kubernetes:443",
        side="egress",
    )
    text = write_suggestion(make_readiness(ReadinessVerdict.BLOCKED, cause), {}, target_options="")
    lines = text.splitlines()
    comment = lines[lines.index(f"  - name: {rule.name}") - 1]
    assert comment.startswith("  # 7 connections, such as shop/web")
    assert comment.endswith("→ 198.18.0.9, port 6443, Service default/kubernetes:443")


def test_the_order_is_stable_and_nothing_missing_is_said() -> None:
    one = write_suggestion(make_readiness(ReadinessVerdict.BLOCKED, NEEDS_RULE, ADVISED), {}, target_options="-k")
    other = write_suggestion(make_readiness(ReadinessVerdict.BLOCKED, ADVISED, NEEDS_RULE), {}, target_options="-k")
    assert one == other
    assert write_suggestion(make_readiness(ReadinessVerdict.READY), {}, target_options="-k").startswith("# nothing")


def test_the_command_prints_it(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    ca.answers["GET /v1/namespaces/shop/readiness"] = make_readiness(ReadinessVerdict.BLOCKED, NEEDS_RULE)
    ca.answers["GET /v1/policies"] = PolicyList(policies=())
    ca.answers["GET /v1/programs"] = ProgramList(programs=())
    assert run(["policy", "suggest", "shop"]) == ExitCode.SUCCESS
    assert RULE.name in capsys.readouterr().out
