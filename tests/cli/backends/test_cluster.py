"""What can't be caused on a real API server: a CA that refuses, one that is silent, races between writers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from cli.backends import object_writer
from cli.main import run
from cli.text.exit_codes import ExitCode
from shared.model.adoption.approval_name import list_names
from shared.model.identity.program import Program
from shared.model.kubernetes.contract import FORCE_EXPLICIT
from shared.model.policy.documents import MeshPolicyDocument, format_documents
from shared.model.policy.rules import Action, Mode, NamespaceState, PolicyDraft, Rule
from shared.model.wire.admin import Acknowledgements, DecisionList, DraftView, ErrorAnswer, Readiness
from tests.cli.backends.test_objects import POLICY, make_policy
from tests.cli.fake_api import CA_PODS, FakeAPI, make_status
from tests.cli.fake_ca import FakeCA
from tests.cli.observations import DENIAL

MESH_POLICY = "/apis/touchmark.dev/v1alpha1/namespaces/shop/meshpolicies/default"
PROGRAMS = "/apis/touchmark.dev/v1alpha1/namespaces/shop/programs"
REVIEW = "POST /apis/authentication.k8s.io/v1/selfsubjectreviews"
DIGEST = "ab" * 32


def make_conflict(*owners: str) -> Any:
    causes = [
        {"reason": "FieldManagerConflict", "message": f'conflict with "{owner}" using v', "field": ".spec.mode"}
        for owner in owners
    ]
    return make_status(409, "Conflict", "Apply failed", causes=causes)


def make_version(version: str, **more: Any) -> dict[str, Any]:
    policy = make_policy(**more)
    return {**policy, "metadata": {**policy["metadata"], "resourceVersion": version, "uid": "u"}}


def make_readiness(*, is_safe: bool = True) -> Readiness:
    return Readiness(
        namespace="shop",
        mode=Mode.PERMISSIVE,
        version=3,
        since=0.0,
        causes=(),
        settled=0,
        is_truncated=False,
        sidecars_reported=2,
        sidecars_total=2,
        silent=() if is_safe else ("web",),
        is_safe=is_safe,
    )


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_writer, "_POLL_S", 0.05)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what isn't accepted in time."""
    monkeypatch.setattr(object_writer, "ACCEPTANCE_DEADLINE_S", 0.3)


def test_the_switch_asks_the_ca_writes_only_the_mode_and_waits_for_every_sidecar(
    cluster_ca: FakeCA, api: FakeAPI, capsys: pytest.CaptureFixture[str]
) -> None:
    readiness = make_readiness()
    cluster_ca.answers["GET /v1/namespaces/shop/readiness"] = readiness
    cluster_ca.answers["GET /v1/namespaces/shop"] = NamespaceState(namespace="shop", version=readiness.version)
    api.answers[f"PATCH {MESH_POLICY}"] = make_policy()
    api.answers[f"GET {MESH_POLICY}"] = [
        make_policy(observed=1),
        make_policy(),
        make_policy(installed=3, waiting=[]),
    ]
    assert run(["mode", "shop", "explicit", "-k"]) == ExitCode.SUCCESS
    printed = capsys.readouterr()
    assert "version 7 is in force in all 3 sidecars" in printed.out
    assert "in force in 2 of 3 sidecars; waiting for web-1.abc" in printed.err
    [written] = api.asked(f"PATCH {MESH_POLICY}")
    assert written["spec"] == {"mode": "explicit"}
    query = next(query for key, query, _ in api.requests if key == f"PATCH {MESH_POLICY}")
    assert query == {"fieldManager": "touchmark-mode", "fieldValidation": "Strict"}


def test_what_was_looked_at_is_what_is_switched_and_force_is_said_in_the_object(
    cluster_ca: FakeCA, api: FakeAPI, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster_ca.answers["GET /v1/namespaces/shop/readiness"] = make_readiness()
    cluster_ca.answers["GET /v1/namespaces/shop"] = NamespaceState(namespace="shop", version=99)
    api.answers[f"PATCH {MESH_POLICY}"] = make_policy()
    api.answers[f"GET {MESH_POLICY}"] = make_policy(installed=3, waiting=[])
    assert run(["mode", "shop", "explicit", "-k"]) == ExitCode.CONFLICT
    assert "no longer at version" in capsys.readouterr().err
    assert not api.asked(f"PATCH {MESH_POLICY}")
    for _ in range(2):
        assert run(["mode", "shop", "explicit", "-k", "--force"]) == ExitCode.SUCCESS
    marks = [each["metadata"]["annotations"][FORCE_EXPLICIT] for each in api.asked(f"PATCH {MESH_POLICY}")]
    assert len(set(marks)) == 2, "each counts once"


def test_laggards_end_with_9_and_a_ca_that_sees_nothing_does_so_too(
    cluster_ca: FakeCA, api: FakeAPI, capsys: pytest.CaptureFixture[str]
) -> None:
    api.answers[f"PATCH {MESH_POLICY}"] = make_policy()
    api.answers[f"GET {MESH_POLICY}"] = make_policy(sidecars=30)
    assert run(["mode", "shop", "permissive", "-k", "--timeout", "0.3"]) == ExitCode.DEADLINE
    assert "web-1.abc hasn't confirmed within 0 s\n  ✗ and 27 more" in capsys.readouterr().err
    api.answers[f"GET {MESH_POLICY}"] = make_policy(observed=1)
    assert run(["mode", "shop", "permissive", "-k", "--timeout", "0.3"]) == ExitCode.DEADLINE
    assert "the CA hasn't processed it" in capsys.readouterr().out


def test_what_the_ca_hasn_t_seen_is_told_as_written_only(api: FakeAPI, capsys: pytest.CaptureFixture[str]) -> None:
    api.answers[f"GET {MESH_POLICY}"] = {**make_policy(), "status": {}}
    assert run(["mode", "shop", "-k"]) == ExitCode.SUCCESS
    printed = capsys.readouterr()
    assert "shop: explicit is set; the CA hasn't reported the mode in force\n✗ the CA hasn't processed" in printed.out
    assert not printed.err
    api.answers[f"GET {MESH_POLICY}"] = make_policy(mode="permissive")
    assert run(["mode", "shop", "-k"]) == ExitCode.SUCCESS
    assert "shop is permissive (version 7, in force in 2 of 3 sidecars)\nset is explicit" in capsys.readouterr().out


def test_a_ca_that_refuses_the_policy_is_quoted(
    cluster_ca: FakeCA, api: FakeAPI, capsys: pytest.CaptureFixture[str]
) -> None:
    api.answers[f"PATCH {MESH_POLICY}"] = make_policy()
    api.answers[f"GET {MESH_POLICY}"] = make_policy(accepted="False")
    assert run(["mode", "shop", "permissive", "-k"]) == ExitCode.REFUSED
    assert "spec.rules[0]: no" in capsys.readouterr().err
    assert run(["mode", "shop", "-k"]) == ExitCode.SUCCESS
    assert "✗ the CA refuses the MeshPolicy: spec.rules[0]: no" in capsys.readouterr().out


def test_without_the_right_to_ask_the_ca_only_yes_switches(
    cluster_ca: FakeCA, api: FakeAPI, capsys: pytest.CaptureFixture[str]
) -> None:
    api.answers[f"PATCH {MESH_POLICY}"] = make_policy()
    api.answers[f"GET {MESH_POLICY}"] = make_policy(installed=3, waiting=[])
    api.forward_status = 403
    assert run(["mode", "shop", "explicit", "-k"]) == ExitCode.REFUSED
    assert not api.asked(f"PATCH {MESH_POLICY}")
    assert run(["mode", "shop", "explicit", "-k", "--yes"]) == ExitCode.SUCCESS
    assert "explicit mode would refuse: you may not create pods/portforward" in capsys.readouterr().err


def test_a_namespace_without_a_policy_is_asked_of_the_ca(
    cluster_ca: FakeCA, api: FakeAPI, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster_ca.answers["GET /v1/namespaces/shop"] = NamespaceState(namespace="shop", version=3, mode=Mode.EXPLICIT)
    cluster_ca.answers["GET /v1/namespaces/shop/acknowledgements"] = Acknowledgements(
        namespace="shop", version=3, installed=1, total=1, waiting=()
    )
    assert run(["mode", "shop", "-k", "--json"]) == ExitCode.SUCCESS
    answer = msgspec.json.decode(capsys.readouterr().out)
    assert (answer["mode"], answer["wanted"]) == ("explicit", None)
    api.answers[CA_PODS] = {"items": []}
    assert run(["mode", "shop", "-k"]) == ExitCode.NOT_FOUND
    assert "has no MeshPolicy, and the CA can't be asked" in capsys.readouterr().err


def make_program(**status: Any) -> dict[str, Any]:
    return {
        "kind": "Program",
        "metadata": {"name": "client-1", "namespace": "shop", "generation": 1},
        "spec": {"serviceAccount": "client", "digests": [f"sha256:{DIGEST}"]},
        "status": status,
    }


ACCEPTED = {"observedGeneration": 1, "conditions": [{"type": "Accepted", "status": "True"}]}


def test_an_approval_from_decisions_is_in_the_user_s_name(cluster_ca: FakeCA, api: FakeAPI) -> None:
    cluster_ca.answers["GET /v1/decisions"] = DecisionList(decisions=(DENIAL,))
    api.answers[REVIEW] = {"status": {"userInfo": {"username": "alice@example.test"}}}
    api.answers[f"PATCH {PROGRAMS}/client-{DIGEST[:12]}"] = make_program()
    api.answers[f"GET {PROGRAMS}/client-1"] = [make_program(), make_program(**ACCEPTED)]
    assert run(["program", "approve", "shop/client", "--from-decisions", "--yes", "-k"]) == ExitCode.SUCCESS
    [written] = api.asked(f"PATCH {PROGRAMS}/client-{DIGEST[:12]}")
    assert written["metadata"]["annotations"] == {"touchmark.dev/approved-by": "alice@example.test"}


def test_an_approval_doesn_t_replace_one_that_also_approves_others(api: FakeAPI) -> None:
    """0.1 named objects after the first of their programs."""
    api.answers[REVIEW] = {"status": {}}
    kept = make_program()
    kept["spec"]["digests"].append("sha256:" + "77" * 32)
    api.answers[f"GET {PROGRAMS}/client-{DIGEST[:12]}"] = kept
    other = list_names("client", [Program(digest=DIGEST)])[1]
    api.answers[f"PATCH {PROGRAMS}/{other}"] = make_program()
    api.answers[f"GET {PROGRAMS}/client-1"] = make_program(**ACCEPTED)
    assert run(["program", "approve", "shop/client", DIGEST, "-k"]) == ExitCode.SUCCESS
    assert [key for key, _, _ in api.requests if key.startswith("PATCH")] == [f"PATCH {PROGRAMS}/{other}"]


@pytest.mark.usefixtures("impatient")
def test_an_approval_that_the_ca_hasn_t_seen_ends_with_9(api: FakeAPI, capsys: pytest.CaptureFixture[str]) -> None:
    api.answers[REVIEW] = {"status": {}}
    api.answers[f"PATCH {PROGRAMS}/client-{DIGEST[:12]}"] = make_program()
    api.answers[f"GET {PROGRAMS}/client-1"] = make_program()
    assert run(["program", "approve", "shop/client", DIGEST, "-k"]) == ExitCode.DEADLINE
    assert "the CA hasn't processed it yet" in capsys.readouterr().err


def test_a_policy_is_tried_whole_before_anything_is_written(api: FakeAPI, tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(POLICY)
    api.answers[f"PATCH {MESH_POLICY}"] = make_policy()
    api.answers[f"PATCH {PROGRAMS}/web"] = make_status(422, "Invalid", "spec.digests: no")
    assert run(["policy", "apply", "-k", "-f", str(file)]) == ExitCode.BAD_INPUT
    assert [query.get("dryRun") for asked, query, _ in api.requests if asked.startswith("PATCH")] == ["All", "All"]


def apply_policy(tmp_path: Path, *arguments: str) -> int:
    file = tmp_path / "p.yaml"
    file.write_text(POLICY.split("---")[0])
    return run(["policy", "apply", "-k", "-f", str(file), "--force", *arguments])


def list_writes(api: FakeAPI) -> list[tuple[str | None, str | None]]:
    """Version and force of each write that was no dry run."""
    return [
        (body["metadata"].get("resourceVersion"), query.get("force"))
        for key, query, body in api.requests
        if key.startswith("PATCH") and not query.get("dryRun")
    ]


def test_a_policy_is_written_over_the_version_that_was_looked_at_whatever_the_ca_says_meanwhile(
    api: FakeAPI, tmp_path: Path
) -> None:
    current = make_policy(version=7)
    current["metadata"]["resourceVersion"] = "41"
    later = make_policy(version=7)
    later["metadata"]["resourceVersion"] = "42"
    api.answers[f"GET {MESH_POLICY}"] = [current, current, later]
    api.answers[f"PATCH {MESH_POLICY}"] = [current, make_status(409, "Conflict", "modified"), later]
    assert apply_policy(tmp_path, "--if-version", "7") == ExitCode.SUCCESS
    assert list_writes(api) == [("41", None), ("42", None)]


@pytest.mark.parametrize("state", [{"version": 8}, {"version": 7, "observed": 1}], ids=repr)
def test_a_policy_that_somebody_else_has_changed_is_not_written(
    api: FakeAPI, tmp_path: Path, capsys: pytest.CaptureFixture[str], state: dict[str, Any]
) -> None:
    current = make_policy(**state)
    current["metadata"]["resourceVersion"] = "41"
    api.answers[f"GET {MESH_POLICY}"] = current
    api.answers[f"PATCH {MESH_POLICY}"] = current
    assert apply_policy(tmp_path, "--if-version", "7") == ExitCode.CONFLICT
    assert "no longer at version 7" in capsys.readouterr().err
    assert list_writes(api) == []


@pytest.mark.usefixtures("impatient")
def test_a_policy_s_writing_names_strangers_rules_and_what_isn_t_in_force(
    api: FakeAPI, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(POLICY.split("---")[0])
    kept = make_policy(observed=1)
    kept["spec"]["rules"] = [{"name": "a"}, {"name": "theirs"}]
    api.answers[f"PATCH {MESH_POLICY}"] = kept
    api.answers[f"GET {MESH_POLICY}"] = kept
    assert run(["policy", "apply", "-k", "-f", str(file)]) == ExitCode.DEADLINE
    errors = capsys.readouterr().err
    assert "rules of another tool: theirs" in errors
    assert "hasn't put it in force yet" in errors
    api.answers[f"GET {MESH_POLICY}"] = make_policy(accepted="False")
    assert run(["policy", "apply", "-k", "-f", str(file)]) == ExitCode.REFUSED


def test_a_mode_for_a_while_says_in_the_object_when_it_goes_back_and_confirm_takes_that_out(
    cluster_ca: FakeCA, api: FakeAPI, capsys: pytest.CaptureFixture[str]
) -> None:
    api.answers[f"PATCH {MESH_POLICY}"] = make_policy()
    tried = make_policy(mode="permissive", installed=3, waiting=[])
    tried["spec"] = {"mode": "permissive", "trial": {"backTo": "explicit", "until": "2999-01-01T00:00:00Z"}}
    api.answers[f"GET {MESH_POLICY}"] = [make_policy(), tried]
    assert run(["mode", "shop", "permissive", "--for", "1h", "-k"]) == ExitCode.SUCCESS
    [written] = api.asked(f"PATCH {MESH_POLICY}")
    assert (written["spec"]["mode"], written["spec"]["trial"]["backTo"]) == ("permissive", "explicit")
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", written["spec"]["trial"]["until"])
    assert "the CA goes back to explicit at 2999-01-01 00:00:00Z" in capsys.readouterr().out
    for mode, for_s in (("explicit", "1h"), ("permissive", "40d")):
        assert run(["mode", "shop", mode, "--for", for_s, "-k", "--force"]) != ExitCode.SUCCESS
    assert len(api.asked(f"PATCH {MESH_POLICY}")) == 1
    assert run(["mode", "shop", "confirm", "-k"]) == ExitCode.SUCCESS
    assert api.asked(f"PATCH {MESH_POLICY}")[1]["spec"] == {"mode": "permissive"}


def test_a_trial_that_is_over_or_of_another_tool_is_not_confirmed(
    api: FakeAPI, capsys: pytest.CaptureFixture[str]
) -> None:
    over = make_policy(mode="permissive")
    over["spec"]["trial"] = {"backTo": "permissive", "until": "2020-01-01T00:00:00Z"}
    for found in (make_policy(), over):
        api.answers[f"GET {MESH_POLICY}"] = found
        assert run(["mode", "shop", "confirm", "-k"]) == ExitCode.CONFLICT
        assert "nothing to confirm" in capsys.readouterr().err
    theirs = make_policy()
    theirs["spec"]["trial"] = {"backTo": "permissive", "until": "2999-01-01T00:00:00Z"}
    api.answers |= {f"GET {MESH_POLICY}": theirs, f"PATCH {MESH_POLICY}": theirs}
    assert run(["mode", "shop", "confirm", "-k"]) == ExitCode.CONFLICT
    assert "written by another tool" in capsys.readouterr().err


def test_a_workloads_mode_is_written_alone_from_what_was_read(
    cluster_ca: FakeCA, api: FakeAPI, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster_ca.answers["GET /v1/namespaces/shop/readiness"] = make_readiness()
    cluster_ca.answers["GET /v1/namespaces/shop"] = NamespaceState(namespace="shop", version=3)
    current = make_policy(installed=3, waiting=[], workloadModes={"db": "explicit"})
    current["metadata"]["resourceVersion"] = "41"
    api.answers[f"GET {MESH_POLICY}"] = current
    api.answers[f"PATCH {MESH_POLICY}"] = [make_status(409, "Conflict", "modified"), current]
    assert run(["mode", "shop", "explicit", "--workload", "web", "-k"]) == ExitCode.SUCCESS
    first, second = api.asked(f"PATCH {MESH_POLICY}")
    assert first == second
    assert second["spec"] == {"workloadModes": {"db": "explicit", "web": "explicit"}}
    assert second["metadata"]["resourceVersion"] == "41"
    query = next(query for key, query, _ in api.requests if key == f"PATCH {MESH_POLICY}")
    assert query["fieldManager"] == "touchmark-workload-modes"
    assert run(["mode", "shop", "explicit", "--workload", "web", "--for", "10m", "-k"]) == ExitCode.BAD_INPUT
    assert "only a namespace's mode goes back" in capsys.readouterr().err


def list_patches(api: FakeAPI) -> list[tuple[str, dict[str, Any]]]:
    """Return what was written of the policy, how, and not on trial."""
    pairs = zip(api.requests, api.headers, strict=True)
    return [
        (headers["Content-Type"].partition("/")[2].partition("-")[0], body["spec"])
        for (key, query, body), headers in pairs
        if key == f"PATCH {MESH_POLICY}" and not query.get("dryRun")
    ]


def own_db(*managers: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a policy in which these have written the mode of ``db``, and the same without that mode."""
    written: dict[str, Any] = {"f:spec": {"f:mode": {}, "f:workloadModes": {"f:db": {}}}}
    present, emptied = (make_policy(installed=3, waiting=[], mode="permissive") for _ in range(2))
    present["metadata"]["managedFields"] = [
        {"manager": each, "operation": "Apply", "fieldsV1": written} for each in managers
    ]
    present["metadata"]["resourceVersion"] = "41"
    present["spec"]["workloadModes"], emptied["spec"]["workloadModes"] = {"db": "explicit"}, {}
    return present, emptied


def test_a_file_that_takes_its_last_workloads_mode_away_is_written_in_two_steps(api: FakeAPI, tmp_path: Path) -> None:
    """Server-side apply would make null of the map, which the definition refuses."""
    document = MeshPolicyDocument(namespace="shop", mode=Mode.PERMISSIVE, workload_modes=())
    file = tmp_path / "p.yaml"
    file.write_text(format_documents([document]))
    kept = ("apply", {"mode": "permissive", "workloadModes": {"db": "explicit"}})
    for managers, written in (
        (("touchmark",), [kept, ("merge", {"workloadModes": {"db": None}})]),
        (("touchmark", "helm"), [kept]),
        (("helm",), [("apply", {"mode": "permissive", "workloadModes": {}})]),
    ):
        present, emptied = own_db(*managers)
        api.answers[f"GET {MESH_POLICY}"] = present
        api.answers[f"PATCH {MESH_POLICY}"] = [present, present, emptied]
        api.requests.clear()
        api.headers.clear()
        assert run(["policy", "apply", "-k", "-f", str(file), "--force"]) == ExitCode.SUCCESS
        assert list_patches(api) == written, managers


@pytest.mark.parametrize("version", [(), ("--if-version", "7")])
def test_a_workloads_mode_that_is_switched_while_a_file_is_applied_stays_switched(
    api: FakeAPI, tmp_path: Path, version: tuple[str, ...]
) -> None:
    """A file that leaves workloadModes out writes those that it wrote before again: as they are by then."""
    file = tmp_path / "p.yaml"
    file.write_text(format_documents([MeshPolicyDocument(namespace="shop", mode=Mode.PERMISSIVE)]))
    present, switched = own_db("touchmark")[0], own_db("touchmark-workload-modes")[0]
    switched["metadata"]["resourceVersion"] = "42"
    present["spec"]["workloadModes"] = {"db": "permissive"}
    api.answers[f"GET {MESH_POLICY}"] = [present, present, switched]
    api.answers[f"PATCH {MESH_POLICY}"] = [present, make_status(409, "Conflict", "modified"), switched]
    assert run(["policy", "apply", "-k", "-f", str(file), *version]) == ExitCode.SUCCESS
    _, first, second = (body for key, _, body in api.requests if key == f"PATCH {MESH_POLICY}")
    assert (first["metadata"]["resourceVersion"], first["spec"]["workloadModes"]) == ("41", {"db": "permissive"})
    assert "workloadModes" not in second["spec"]


def test_a_workloads_mode_that_an_undo_or_a_file_of_ours_wrote_is_taken_away(api: FakeAPI) -> None:
    present, emptied = own_db("touchmark", "touchmark-workload-modes")
    api.answers[f"GET {MESH_POLICY}"] = present
    api.answers[f"PATCH {MESH_POLICY}"] = emptied
    assert run(["mode", "shop", "inherit", "--workload", "db", "-k"]) == ExitCode.SUCCESS
    assert list_patches(api) == [("merge", {"workloadModes": {"db": None}})]


def test_each_step_of_a_forced_file_counts_as_forced(api: FakeAPI, tmp_path: Path) -> None:
    """The CA admits what it would refuse in the write that brings a new mark: the second step is what switches."""
    file = tmp_path / "p.yaml"
    file.write_text(format_documents([MeshPolicyDocument(namespace="shop", workload_modes=())]))
    present, emptied = own_db("touchmark")
    api.answers[f"GET {MESH_POLICY}"] = present
    api.answers[f"PATCH {MESH_POLICY}"] = [present, present, emptied]
    assert run(["policy", "apply", "-k", "-f", str(file), "--force"]) == ExitCode.SUCCESS
    patches = [body for key, query, body in api.requests if key == f"PATCH {MESH_POLICY}" and not query.get("dryRun")]
    one, two = (body["metadata"]["annotations"][FORCE_EXPLICIT] for body in patches)
    assert one != two


def test_a_workloads_mode_of_another_tool_is_not_taken_away(api: FakeAPI, capsys: pytest.CaptureFixture[str]) -> None:
    current = make_policy(installed=3, waiting=[], mode="permissive")
    current["spec"]["workloadModes"] = {"db": "explicit"}
    api.answers[f"GET {MESH_POLICY}"] = current
    api.answers[f"PATCH {MESH_POLICY}"] = current
    assert run(["mode", "shop", "inherit", "--workload", "db", "-k"]) == ExitCode.CONFLICT
    assert "db in MeshPolicy shop/default was written by another tool" in capsys.readouterr().err


@pytest.mark.usefixtures("impatient")
def test_a_draft_in_force_is_a_mesh_policy_and_it_goes_once_the_ca_has_it(
    cluster_ca: FakeCA, api: FakeAPI, capsys: pytest.CaptureFixture[str]
) -> None:
    draft = PolicyDraft(number=3, rules=(Rule(name="none", action=Action.DENY),))
    cluster_ca.answers["GET /v1/namespaces/shop/draft"] = DraftView(namespace="shop", draft=draft, written=1.0)
    cluster_ca.answers["DELETE /v1/namespaces/shop/draft"] = NamespaceState(namespace="shop")
    api.answers[f"GET {MESH_POLICY}"] = make_version("7")

    def write(request: web.Request) -> Any:
        written = make_version("8", generation=3)
        if "dryRun" not in request.query:
            api.answers[f"GET {MESH_POLICY}"] = written
        return written

    api.answers[f"PATCH {MESH_POLICY}"] = write
    assert run(["policy", "draft", "shop", "--promote", "-k"]) == ExitCode.DEADLINE
    assert not cluster_ca.asked("DELETE /v1/namespaces/shop/draft"), "it isn't in force yet"
    capsys.readouterr()
    api.answers[f"GET {MESH_POLICY}"] = make_version("7")
    api.answers[f"PATCH {MESH_POLICY}"] = make_version("8", generation=3, observed=3)
    assert run(["policy", "draft", "shop", "--promote", "-k"]) == ExitCode.SUCCESS
    dropped = [query for asked, query, _ in cluster_ca.requests if asked == "DELETE /v1/namespaces/shop/draft"]
    assert dropped == [{"number": "3"}], "one that was written meanwhile stays"
    written = [body for asked, query, body in api.requests if asked == f"PATCH {MESH_POLICY}" and "dryRun" not in query]
    assert written[-1]["spec"] == {"rules": [{"name": "none", "action": "deny", "direction": "ingress"}]}
    assert written[-1]["metadata"]["resourceVersion"] == "7", "over what was looked at, and nothing newer"
    assert "MeshPolicy shop/default applied (version 7)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("code", "note"), [("conflict", "another draft was written meanwhile, which stays a draft"), ("not_found", "")]
)
def test_a_draft_that_was_written_or_dropped_while_another_went_in_force_is_no_error(
    cluster_ca: FakeCA, api: FakeAPI, capsys: pytest.CaptureFixture[str], code: str, note: str
) -> None:
    draft = PolicyDraft(number=3, rules=(Rule(name="none", action=Action.DENY),))
    cluster_ca.answers["GET /v1/namespaces/shop/draft"] = DraftView(namespace="shop", draft=draft, written=1.0)
    cluster_ca.answers["DELETE /v1/namespaces/shop/draft"] = ErrorAnswer(code=code, message="no")
    api.answers[f"PATCH {MESH_POLICY}"] = api.answers[f"GET {MESH_POLICY}"] = make_version("7")
    assert run(["policy", "draft", "shop", "--promote", "-k"]) == ExitCode.SUCCESS
    printed = capsys.readouterr()
    assert "MeshPolicy shop/default applied" in printed.out
    assert note in printed.err
