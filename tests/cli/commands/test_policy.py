"""Policies as YAML: all or nothing, and faults with their line."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from cli.main import run
from cli.text.exit_codes import ExitCode
from shared.model.policy.documents import parse_documents
from shared.model.policy.rules import Mode, NamespaceState
from shared.model.wire.admin import PolicyList, PolicyView, ProgramList
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
    assert run(["policy", "apply", "-f", str(file)]) == ExitCode.SUCCESS
    [request] = ca.asked("PUT /v1/policies")
    assert (request["namespace"], request["mode"]) == ("shop", "explicit")


def test_a_fault_in_the_second_file_applies_nothing_and_names_its_line(
    ca: FakeCA, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(GOOD)
    bad.write_text(GOOD.replace("mode: explicit", "mood: explicit"))
    assert run(["policy", "apply", "-f", str(good), "-f", str(bad)]) == ExitCode.BAD_INPUT
    assert "bad.yaml:5" in capsys.readouterr().err
    assert not ca.requests


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
