"""The command against a real API server: server-side apply's ownership, rights, and a forwarded port through it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.backends import object_writer
from cli.export.engine import Engine
from cli.main import run
from cli.text.exit_codes import ExitCode
from shared.model.wire.admin import DecisionList, IdentityList
from tests.cli.export.world import export_all
from tests.cli.fake_api import FakeAPI
from tests.cli.fake_ca import FakeCA, running_ca
from tests.kubernetes.forwarding import running_ca_pod
from tests.kubernetes.harness.api_server import ApiServer

DEFINITIONS = ("meshpolicies.touchmark.dev", "programs.touchmark.dev")
DIGEST = "ab" * 32
RULES = """\
apiVersion: touchmark.dev/v1alpha1
kind: MeshPolicy
metadata: {{name: default, namespace: {namespace}}}
spec:
  mode: permissive
  rules:
  - name: probes
    action: allow
    peers: [{{unidentified: true, cidrs: [192.0.2.0/24]}}]
    ports: [8080, "9000-9100"]
"""


@pytest.fixture(scope="module", autouse=True)
def installed(api_server: ApiServer) -> None:
    api_server.install_definitions()


@pytest.fixture(autouse=True)
def in_cluster(api_server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The administrator works in this cluster. No CA answers here, so nobody waits for one."""
    monkeypatch.setenv("KUBECONFIG", str(api_server.admin))
    monkeypatch.setenv("TOUCHMARK_KUBERNETES", "1")
    monkeypatch.setattr(object_writer, "ACCEPTANCE_DEADLINE_S", 0.0)


@pytest.fixture
def rules(namespace: str, tmp_path: Path) -> str:
    path = tmp_path / "rules.yaml"
    path.write_text(RULES.format(namespace=namespace))
    return str(path)


def get_spec(api_server: ApiServer, namespace: str) -> dict[str, Any]:
    spec: dict[str, Any] = api_server.kubectl.get("meshpolicy", "default", "-n", namespace)["spec"]
    return spec


def switch(namespace: str, mode: str, *more: str) -> int:
    return run(["mode", namespace, mode, "--yes", "--timeout", "0", *more])


def test_a_workloads_own_mode_comes_and_goes_and_the_last_one_leaves_none(
    api_server: ApiServer, namespace: str
) -> None:
    """An empty map says that no workload has a mode of its own; a map that is left out changes nothing."""
    switch(namespace, "permissive")  # No CA answers here: what is in force is read from the object.
    for workload in ("db", "web"):
        api_server.kubectl("create", "serviceaccount", workload, "--namespace", namespace)
    steps: list[tuple[list[str], dict[str, str]]] = [
        (["explicit", "--workload", "db", "--workload", "web"], {"db": "explicit", "web": "explicit"}),
        (["inherit", "--workload", "web"], {"db": "explicit"}),
        (["inherit", "--workload", "db"], {}),
    ]
    for (mode, *workloads), expected in steps:
        assert switch(namespace, mode, *workloads) == ExitCode.DEADLINE
        assert get_spec(api_server, namespace)["workloadModes"] == expected


@pytest.mark.parametrize("modes", [{}, {"db": "explicit"}])
def test_a_workloads_mode_goes_whichever_of_our_commands_wrote_it(
    api_server: ApiServer, namespace: str, tmp_path: Path, modes: dict[str, str]
) -> None:
    """An apply that empties a map of which another of our managers says that it is empty would leave null."""
    api_server.kubectl("create", "serviceaccount", "db", "--namespace", namespace)
    file = tmp_path / "policy.yaml"
    file.write_text(RULES.format(namespace=namespace) + f"  workloadModes: {json.dumps(modes)}\n")
    assert run(["policy", "apply", "-f", str(file), "--force"]) == ExitCode.DEADLINE
    for _ in range(2):
        assert switch(namespace, "explicit", "--force", "--workload", "db") == ExitCode.DEADLINE
        assert switch(namespace, "inherit", "--workload", "db") == ExitCode.DEADLINE
        assert get_spec(api_server, namespace)["workloadModes"] == {}
        assert run(["policy", "apply", "-f", str(file), "--force"]) == ExitCode.DEADLINE
        assert get_spec(api_server, namespace)["workloadModes"] == modes


def test_a_file_takes_the_workloads_modes_away_that_it_had_set(
    api_server: ApiServer, namespace: str, tmp_path: Path
) -> None:
    api_server.kubectl("create", "serviceaccount", "db", "--namespace", namespace)
    file = tmp_path / "modes.yaml"
    for modes in ({"db": "permissive"}, {}):
        file.write_text(RULES.format(namespace=namespace) + f"  workloadModes: {json.dumps(modes)}\n")
        assert run(["policy", "apply", "-f", str(file), "--force"]) == ExitCode.DEADLINE
        spec = get_spec(api_server, namespace)
        assert (spec["workloadModes"], spec["mode"], len(spec["rules"])) == (modes, "permissive", 1)


def test_mode_makes_the_policy_and_keeps_what_others_wrote(api_server: ApiServer, namespace: str, rules: str) -> None:
    assert switch(namespace, "explicit") == ExitCode.DEADLINE
    assert get_spec(api_server, namespace) == {"mode": "explicit"}
    assert run(["policy", "apply", "-f", rules]) == ExitCode.DEADLINE
    assert get_spec(api_server, namespace)["mode"] == "permissive"
    assert switch(namespace, "explicit") == ExitCode.DEADLINE
    spec = get_spec(api_server, namespace)
    assert spec["mode"] == "explicit"
    assert [rule["name"] for rule in spec["rules"]] == ["probes"]
    assert spec["rules"][0]["ports"] == [8080, "9000-9100"]


def test_a_rule_that_the_file_no_longer_names_goes_and_kubectl_s_own_stays(
    api_server: ApiServer, namespace: str, rules: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["policy", "apply", "-f", rules])
    theirs = RULES.format(namespace=namespace).replace("probes", "theirs").replace("  mode: permissive\n", "")
    api_server.kubectl("apply", "--server-side", "-f", "-", stdin=theirs)
    Path(rules).write_text(Path(rules).read_text().replace("probes", "renamed"))
    capsys.readouterr()
    run(["policy", "apply", "-f", rules])
    assert sorted(rule["name"] for rule in get_spec(api_server, namespace)["rules"]) == ["renamed", "theirs"]
    assert "rules of another tool: theirs" in capsys.readouterr().err


def test_kubectl_s_fields_are_a_conflict_that_force_settles(
    api_server: ApiServer, namespace: str, rules: str, capsys: pytest.CaptureFixture[str]
) -> None:
    api_server.kubectl("apply", "-f", rules)
    capsys.readouterr()
    assert switch(namespace, "explicit", "--json") == ExitCode.CONFLICT
    error = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert error["code"] == "owned_elsewhere"
    assert "'kubectl-client-side-apply' owns .spec.mode" in error["message"]
    assert get_spec(api_server, namespace)["mode"] == "permissive"
    assert switch(namespace, "explicit", "--force-conflicts") == ExitCode.DEADLINE
    assert get_spec(api_server, namespace)["mode"] == "explicit"


def test_the_switch_waits_for_the_status_of_its_own_generation(
    api_server: ApiServer, namespace: str, capsys: pytest.CaptureFixture[str]
) -> None:
    switch(namespace, "permissive")
    capsys.readouterr()

    def be_the_ca() -> None:
        """What the CA's leader writes, in two steps."""
        for installed, waiting in ((1, ["web-1.abcdef01"]), (2, [])):
            time.sleep(1.0)
            policy = api_server.kubectl.get("meshpolicy", "default", "-n", namespace)
            status = {
                "observedGeneration": policy["metadata"]["generation"],
                "mode": policy["spec"]["mode"],
                "version": 5,
                "sidecars": 2,
                "installed": installed,
                "waiting": waiting,
                "conditions": [
                    {
                        "type": "Accepted",
                        "status": "True",
                        "lastTransitionTime": "2026-01-01T00:00:00Z",
                        "reason": "InForce",
                        "message": "",
                    }
                ],
            }
            api_server.kubectl(
                "patch", "meshpolicy", "default", "-n", namespace, "--subresource=status", "--type=merge",
                "-p", json.dumps({"status": status}),
            )  # fmt: skip

    ca = threading.Thread(target=be_the_ca)
    ca.start()
    try:
        code = run(["mode", namespace, "explicit", "--yes", "--timeout", "120"])
    finally:
        ca.join()
    printed = capsys.readouterr()
    assert code == ExitCode.SUCCESS
    assert f"{namespace} is explicit: version 5 is in force in all 2 sidecars" in printed.out
    assert "waiting for web-1.abcdef01" in printed.err
    assert run(["mode", namespace]) == ExitCode.SUCCESS
    assert "is explicit (version 5, in force in 2 of 2 sidecars)" in capsys.readouterr().out


def test_an_approval_bears_the_user_s_name_and_is_taken_back(
    api_server: ApiServer, namespace: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(api_server.kubeconfig("alice", groups=["system:masters"])))
    other = "cd" * 32
    approve = ["program", "approve", f"{namespace}/web", f"sha256:{DIGEST}", other, "--name", "web"]
    assert run(approve) == ExitCode.DEADLINE
    capsys.readouterr()
    assert run(["program", "list", namespace, "--json"]) == ExitCode.SUCCESS
    [view] = json.loads(capsys.readouterr().out)
    assert (view["approved_by"], view["service_account"]) == ("alice", "web")
    assert [each["digest"] for each in view["programs"]] == [DIGEST, other]
    assert abs(view["approved"] - time.time()) < 60
    assert run(["program", "remove", f"{namespace}/web", DIGEST]) == ExitCode.SUCCESS
    spec = api_server.kubectl.get("program", "web", "-n", namespace)["spec"]
    assert spec["digests"] == [f"sha256:{other}"]
    assert run(["program", "remove", f"{namespace}/web", other]) == ExitCode.SUCCESS
    assert api_server.kubectl.get("programs", "-n", namespace)["items"] == []


def test_what_get_prints_apply_takes_and_delete_deletes(
    api_server: ApiServer, namespace: str, rules: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["policy", "apply", "-f", rules])
    run(["program", "approve", f"{namespace}/web", DIGEST, "--name", "web"])
    capsys.readouterr()
    assert run(["policy", "get", namespace]) == ExitCode.SUCCESS
    printed = capsys.readouterr().out
    again = tmp_path / "again.yaml"
    again.write_text(printed)
    before = get_spec(api_server, namespace)
    assert run(["policy", "apply", "-f", str(again)]) == ExitCode.DEADLINE
    assert get_spec(api_server, namespace) == before
    assert run(["policy", "delete", "-f", str(again)]) == ExitCode.SUCCESS
    assert run(["policy", "delete", namespace]) == ExitCode.NOT_FOUND
    capsys.readouterr()
    assert run(["policy", "get", namespace, "--json"]) == ExitCode.SUCCESS
    assert json.loads(capsys.readouterr().out) == []


def test_nothing_is_written_when_one_document_is_refused(
    api_server: ApiServer, namespace: str, rules: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = Path(rules).read_text()
    Path(rules).write_text(f"{text}---\n{text.replace(namespace, 'nowhere-at-all')}")
    assert run(["policy", "apply", "-f", rules]) == ExitCode.NOT_FOUND
    assert "nowhere-at-all" in capsys.readouterr().err
    assert api_server.kubectl.get("meshpolicies", "-n", namespace)["items"] == []


@pytest.mark.parametrize(
    ("verb", "right"),
    [
        (["mode", "NAMESPACE", "permissive"], "you may not patch meshpolicies.touchmark.dev 'default'"),
        (["policy", "get"], "you may not list meshpolicies.touchmark.dev"),
        (["program", "list", "NAMESPACE"], "you may not list programs.touchmark.dev in namespace NAMESPACE"),
        (["decisions"], "you may not list pods in namespace touchmark-system"),
    ],
)
def test_without_the_right_the_error_names_it(
    api_server: ApiServer,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    verb: list[str],
    right: str,
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(api_server.kubeconfig("eve")))
    assert run([part.replace("NAMESPACE", namespace) for part in verb]) == ExitCode.REFUSED
    errors = capsys.readouterr().err
    assert f"error[forbidden]: {right.replace('NAMESPACE', namespace)}" in errors
    assert "ask the cluster's administrator" in errors


def test_a_token_that_isn_t_one_is_unauthorized(
    api_server: ApiServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = api_server.service_account_kubeconfig("default", "somebody")
    text = good.read_text()
    token = next(part for part in text.split('"') if part.count(".") == 2 and len(part) > 300)
    bad = tmp_path / "bad.kubeconfig"
    bad.write_text(text.replace(token, token[:-8] + "AAAAAAAA"))
    monkeypatch.setenv("KUBECONFIG", str(bad))
    assert run(["policy", "get"]) == ExitCode.REFUSED
    assert "error[unauthorized]" in capsys.readouterr().err


# ---- the admin API, through the API server and a kubelet that speaks its framing -------------------------------------


@pytest.fixture
def kubelet(api_server: ApiServer, tmp_path: Path) -> Iterator[FakeAPI]:
    with running_ca_pod(api_server, tmp_path) as fake:
        yield fake


@pytest.fixture
def ca(kubelet: FakeAPI, tmp_path: Path) -> Iterator[FakeCA]:
    with running_ca(tmp_path) as fake:
        kubelet.forward_to = fake.socket
        yield fake


def test_the_admin_api_is_reached_through_the_real_api_server(
    ca: FakeCA, kubelet: FakeAPI, capsys: pytest.CaptureFixture[str]
) -> None:
    ca.answers["GET /v1/decisions"] = DecisionList(decisions=())
    ca.answers["GET /v1/identities"] = IdentityList(identities=())
    assert run(["decisions", "--json"]) == ExitCode.SUCCESS
    assert run(["identities", "--json"]) == ExitCode.SUCCESS
    assert capsys.readouterr().out == "[]\n[]\n"
    assert kubelet.forwarded == ["/portForward/touchmark-system/ca-0"] * 2
    kubelet.forward_error = "nobody listens"
    assert run(["decisions", "--json"]) == ExitCode.UNAVAILABLE
    assert "nobody listens" in capsys.readouterr().err


def test_who_may_only_look_at_pods_may_not_forward(
    api_server: ApiServer, ca: FakeCA, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "look", "namespace": "touchmark-system"},
        "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}],
    }
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "look", "namespace": "touchmark-system"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "look"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "mallory"}],
    }
    api_server.kubectl.apply(role, binding)
    monkeypatch.setenv("KUBECONFIG", str(api_server.kubeconfig("mallory")))
    assert run(["decisions"]) == ExitCode.REFUSED
    errors = capsys.readouterr().err
    assert "you may not create pods/portforward 'ca-0' in namespace touchmark-system" in errors
    assert 'verbs: ["create", "get"]' in errors


def test_without_the_definitions_the_error_says_how_to_install_them(
    api_server: ApiServer, namespace: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Last in this file: the definitions are gone for a moment."""
    api_server.kubectl("delete", "crd", *DEFINITIONS, "--wait=false")
    deadline = time.monotonic() + 60
    try:
        while run(["policy", "get"]) != ExitCode.UNAVAILABLE and time.monotonic() < deadline:
            time.sleep(0.2)
        assert "kubectl apply -k" in capsys.readouterr().err
    finally:
        api_server.kubectl("wait", "--for=delete", "--timeout=60s", "crd", *DEFINITIONS)
        api_server.install_definitions()


def test_exported_network_policies_are_valid_to_the_api_server(api_server: ApiServer, namespace: str) -> None:
    """Other engines' kinds aren't installed here."""
    objects = export_all(Engine.NETWORK_POLICY, as_explicit=True).objects
    for each in objects:
        each["metadata"]["namespace"] = namespace
    items = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    printed = api_server.kubectl(
        "apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-", stdin=items
    )
    assert printed.count("serverside-applied") == len(objects) > 10
