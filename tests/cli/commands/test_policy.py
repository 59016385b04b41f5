"""Policies as YAML: all or nothing, and faults with their line."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from cli.main import run
from cli.text.exit_codes import ExitCode
from shared.model.policy.documents import DraftDocument, MeshPolicyDocument, format_documents, parse_documents
from shared.model.policy.modes import make_modes
from shared.model.policy.rules import Action, Mode, NamespaceState, Rule
from shared.model.wire.admin import (
    Acknowledgements,
    History,
    ModeTrial,
    NamespaceList,
    PolicyList,
    PolicyView,
    ProgramList,
    SidecarList,
    SidecarView,
)
from tests.cli.commands.test_mode import CAUSE, make_readiness
from tests.cli.fake_ca import FakeCA

GOOD = """\
apiVersion: touchmark.dev/v1alpha1
kind: MeshPolicy
metadata: {name: default, namespace: shop}
spec:
  mode: explicit
  rules: []
"""


def test_apply_sends_the_policy(ca: FakeCA, tmp_path: Path) -> None:
    ca.answers["PUT /v1/policies"] = PolicyView(
        namespace="shop", version=2, mode=Mode.EXPLICIT, group_label="", rules=()
    )
    file = tmp_path / "shop.yaml"
    file.write_text(GOOD)
    assert run(["policy", "apply", "-f", str(file)]) == ExitCode.REFUSED, "what explicit mode refuses isn't known"
    assert not ca.asked("PUT /v1/policies")
    assert run(["policy", "apply", "-f", str(file), "--force"]) == ExitCode.SUCCESS
    [request] = ca.asked("PUT /v1/policies")
    assert (request["namespace"], request["mode"]) == ("shop", "explicit")


@pytest.mark.parametrize("option", ["--force", "--draft"])
def test_files_without_a_document_are_named(
    ca: FakeCA, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    """`policy suggest` writes comments alone where no rule is missing."""
    file = tmp_path / "shop.yaml"
    file.write_text("# nothing is missing for what was seen\n")
    assert run(["policy", "apply", "-f", str(file), option]) == ExitCode.SUCCESS
    assert "nothing is applied: the files hold no MeshPolicy and no Program" in capsys.readouterr().err


def test_json_says_that_a_mode_is_left_on_trial(ca: FakeCA, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Else a script takes a namespace for explicit that is permissive for another hour."""
    trial = ModeTrial(mode=Mode.PERMISSIVE, back_to=Mode.EXPLICIT, started=0.0, until=4e9)
    ca.answers["GET /v1/namespaces/shop/history"] = History(namespace="shop", generations=(), trial=trial)
    ca.answers["PUT /v1/policies"] = PolicyView(
        namespace="shop", version=2, mode=Mode.PERMISSIVE, group_label="", rules=()
    )
    file = tmp_path / "shop.yaml"
    file.write_text(GOOD)
    assert run(["policy", "apply", "-f", str(file), "--force", "--json"]) == ExitCode.SUCCESS
    [applied] = msgspec.json.decode(capsys.readouterr().out)
    assert applied["note"].startswith("left on trial: permissive until 2096")


def test_a_version_that_was_looked_at_is_sent_for_one_policy_alone(
    ca: FakeCA, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ca.answers["PUT /v1/policies"] = PolicyView(
        namespace="shop", version=3, mode=Mode.EXPLICIT, group_label="", rules=()
    )
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text(GOOD)
    two.write_text(GOOD.replace("shop", "bank"))
    arguments = ["policy", "apply", "-f", str(one), "--force", "--if-version", "2"]
    assert run(arguments) == ExitCode.SUCCESS
    [request] = ca.asked("PUT /v1/policies")
    assert request["expected_version"] == 2
    assert run([*arguments, "-f", str(two)]) == ExitCode.BAD_INPUT
    assert "one MeshPolicy alone" in capsys.readouterr().err
    assert len(ca.asked("PUT /v1/policies")) == 1


def test_a_fault_in_the_second_file_applies_nothing_and_names_its_line(
    ca: FakeCA, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(GOOD)
    bad.write_text(GOOD.replace("mode: explicit", "mood: explicit"))
    assert run(["policy", "apply", "-f", str(good), "-f", str(bad)]) == ExitCode.BAD_INPUT
    assert "bad.yaml:5" in capsys.readouterr().err
    assert not ca.requests


def test_force_passes_over_the_check_of_explicit_mode_and_over_nothing_that_lint_finds(
    ca: FakeCA, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ca.answers["PUT /v1/policies"] = PolicyView(
        namespace="shop", version=3, mode=Mode.PERMISSIVE, group_label="", rules=()
    )
    file = tmp_path / "shop.yaml"
    rules = "rules: [{name: all, action: allow}, {name: none, action: deny}]"
    file.write_text(GOOD.replace("explicit", "permissive").replace("rules: []", rules))
    assert run(["policy", "apply", "-f", str(file), "--force"]) == ExitCode.REFUSED
    assert "✗ shop/all: contradictory" in capsys.readouterr().err
    assert not ca.asked("PUT /v1/policies")
    assert run(["policy", "apply", "-f", str(file), "--ignore-lint"]) == ExitCode.SUCCESS


@pytest.mark.parametrize("text", ["[" * 100_000, GOOD + "  x: " + "{a: " * 25_000], ids=["lists", "fields"])
def test_a_file_that_nests_without_end_is_refused_with_its_line(
    ca: FakeCA, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    file = tmp_path / "deep.yaml"
    file.write_text(text)
    assert run(["policy", "apply", "-f", str(file)]) == ExitCode.BAD_INPUT
    assert "nested too deeply: more than 64 levels" in capsys.readouterr().err
    assert not ca.requests


def test_delete_names_a_namespace(ca: FakeCA) -> None:
    ca.answers["DELETE /v1/policies/shop"] = NamespaceState(namespace="shop")
    assert run(["policy", "delete", "shop"]) == ExitCode.SUCCESS
    assert ca.requests[0][0] == "DELETE /v1/policies/shop"


def test_get_prints_the_same_objects_as_yaml_and_as_json(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    view = PolicyView(namespace="shop", version=2, mode=Mode.EXPLICIT, group_label="", rules=())
    ca.answers["GET /v1/policies"] = PolicyList(policies=(view,))
    ca.answers["GET /v1/programs"] = ProgramList(programs=())
    assert run(["policy", "get"]) == ExitCode.SUCCESS
    [document] = parse_documents(capsys.readouterr().out, "what was printed")
    assert (document.namespace, document.mode) == ("shop", Mode.EXPLICIT)  # type: ignore[union-attr]  # One policy.
    assert run(["policy", "get", "--json"]) == ExitCode.SUCCESS
    [printed] = msgspec.json.decode(capsys.readouterr().out)
    assert (printed["kind"], printed["spec"]) == ("MeshPolicy", {"mode": "explicit"})


RULES = """\
apiVersion: touchmark.dev/v1alpha1
kind: MeshPolicy
metadata: {name: default, namespace: shop}
spec:
  rules:
  - {name: in, action: allow, workloads: [wbe], peers: [{namespace: bnak}]}
---
apiVersion: touchmark.dev/v1alpha1
kind: Program
metadata: {name: web, namespace: shop}
spec: {serviceAccount: web, digests: ["sha256:DIGEST"]}
""".replace("DIGEST", "ab" * 32)


@pytest.fixture
def surrounded(ca: FakeCA) -> FakeCA:
    ca.answers["GET /v1/sidecars"] = SidecarList(
        sidecars=(
            SidecarView(
                instance="a", workload="shop/web", addresses=("198.18.0.2",), allowed_addresses=(), labels={},
                tunnel_port=15008, version="0", capture="listeners", joined=0, last_seen=0, connected=True, live=True,
                installed_sequence=1, namespace_versions={},
            ),
        )
    )  # fmt: skip
    ca.answers["GET /v1/namespaces"] = NamespaceList(
        namespaces=(NamespaceState(namespace="shop"), NamespaceState(namespace="bank"))
    )
    return ca


def test_lint_names_misspelt_references_and_ends_with_3(
    surrounded: FakeCA, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(RULES)
    assert run(["policy", "lint", str(file)]) == ExitCode.CHECK_FAILED
    assert capsys.readouterr().out.splitlines() == [
        "✗ shop/in: unknown_workload: there is no workload shop/wbe (did you mean web?)",
        "✗ shop/in: unknown_namespace: there is no namespace bnak (did you mean bank?)",
    ]
    file.write_text(RULES.replace("wbe", "web").replace("bnak", "bank"))
    assert run(["policy", "lint", str(file)]) == ExitCode.SUCCESS
    assert run(["policy", "lint", str(file), "--json"]) == ExitCode.SUCCESS
    assert capsys.readouterr().out.splitlines() == ["✓ nothing found", "[]"]


def test_lint_judges_what_is_in_force(surrounded: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    rules = (Rule(name="in", action=Action.ALLOW), Rule(name="again", action=Action.ALLOW))
    surrounded.answers["GET /v1/policies"] = PolicyList(
        policies=(PolicyView(namespace="shop", version=1, mode=Mode.PERMISSIVE, group_label="", rules=rules),)
    )
    surrounded.answers["GET /v1/programs"] = ProgramList(programs=())
    assert run(["policy", "lint", "shop"]) == ExitCode.SUCCESS
    assert "! shop/again: redundant: in says all of it already" in capsys.readouterr().out
    assert run(["policy", "lint", "--strict"]) == ExitCode.CHECK_FAILED


TWICE = """\
apiVersion: touchmark.dev/v1alpha1
kind: MeshPolicy
metadata: {name: default, namespace: shop}
spec:
  rules:
  - {name: in, action: allow}
  - {name: again, action: allow}
"""


def test_apply_refuses_what_lint_finds_in_error_and_says_the_rest(
    surrounded: FakeCA, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(RULES.partition("---")[0])
    surrounded.answers["PUT /v1/policies"] = PolicyView(
        namespace="shop", version=2, mode=Mode.PERMISSIVE, group_label="", rules=()
    )
    assert run(["policy", "apply", "-f", str(file)]) == ExitCode.REFUSED
    said = capsys.readouterr().err
    assert "there is no namespace bnak" in said
    assert "finds 2 errors" in said
    assert not surrounded.asked("PUT /v1/policies")
    assert run(["policy", "apply", "-f", str(file), "--ignore-lint"]) == ExitCode.SUCCESS
    assert "there is no namespace bnak" in capsys.readouterr().err
    file.write_text(TWICE)
    assert run(["policy", "apply", "-f", str(file)]) == ExitCode.SUCCESS
    assert "redundant" in capsys.readouterr().err


def test_apply_with_mode_explicit_is_checked_by_the_files_own_rules(
    ca: FakeCA, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text(GOOD + RULES.partition("---")[2].join(["---", ""]))
    ca.answers["GET /v1/namespaces/shop"] = NamespaceState(namespace="shop", version=1)
    ca.answers["GET /v1/namespaces/shop/acknowledgements"] = Acknowledgements(
        namespace="shop", version=1, installed=0, total=0, waiting=()
    )
    ca.answers["POST /v1/namespaces/shop/readiness"] = make_readiness(CAUSE)
    assert run(["policy", "apply", "-f", str(file)]) == ExitCode.REFUSED
    said = capsys.readouterr().err
    assert "touchmark ready shop" in said
    assert "(1 change is missing)" in said
    [candidate] = ca.asked("POST /v1/namespaces/shop/readiness")
    assert [each["service_account"] for each in candidate["programs"]] == ["web"]
    assert not ca.asked("PUT /v1/policies")


def test_apply_that_makes_one_workload_explicit_is_checked_for_that_one(
    ca: FakeCA, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "shop.yaml"
    document = MeshPolicyDocument(namespace="shop", workload_modes=make_modes({"db": Mode.EXPLICIT}))
    file.write_text(format_documents([document]))
    ca.answers["GET /v1/namespaces/shop"] = NamespaceState(namespace="shop", version=1)
    ca.answers["GET /v1/namespaces/shop/acknowledgements"] = Acknowledgements(
        namespace="shop", version=1, installed=0, total=0, waiting=()
    )
    asked = "POST /v1/namespaces/shop/readiness"
    ca.answers[asked] = msgspec.structs.replace(make_readiness(CAUSE), workload="shop/db")
    assert run(["policy", "apply", "-f", str(file)]) == ExitCode.REFUSED
    printed = capsys.readouterr().err
    assert "shop/db would become explicit" in printed
    assert "touchmark ready shop --workload db" in printed
    assert [query["workload"] for key, query, _ in ca.requests if key == asked] == ["shop/db"]
    assert not ca.asked("PUT /v1/policies")


def test_lint_names_a_workload_that_isnt_there_but_has_a_mode(
    surrounded: FakeCA, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "shop.yaml"
    document = MeshPolicyDocument(namespace="shop", workload_modes=make_modes({"wbe": Mode.EXPLICIT}))
    file.write_text(format_documents([document]))
    assert run(["policy", "lint", str(file)]) == ExitCode.CHECK_FAILED
    expected = "✗ shop: unknown_workload: there is no workload shop/wbe (did you mean web?)"
    assert capsys.readouterr().out.splitlines() == [expected]
    assert surrounded.asked("GET /v1/sidecars")


def test_lint_judges_drafts_apart_and_errors_of_theirs_stop_nothing(
    surrounded: FakeCA, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "draft.yaml"
    policy = MeshPolicyDocument(namespace="shop", workload_modes=make_modes({"wbe": Mode.EXPLICIT}))
    file.write_text(format_documents([DraftDocument(policy=policy)]))
    expected = "✗ shop: unknown_workload: in the draft: there is no workload shop/wbe (did you mean web?)"
    assert run(["policy", "lint", str(file)]) == ExitCode.CHECK_FAILED
    assert capsys.readouterr().out.splitlines() == [expected]
    surrounded.answers["PUT /v1/namespaces/shop/draft"] = NamespaceState(namespace="shop", version=2)
    assert run(["policy", "apply", "-f", str(file)]) == ExitCode.SUCCESS
    assert expected in capsys.readouterr().err
