"""`touchmark install`, `upgrade` and `uninstall` on a real API server: the same objects as kubectl's, and none left.

There are no controllers: this test plays the CA's rollout, and what waits for a finalizer stays marked as deleted.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.cluster.installation.bundle import KINDS, OURS, load_objects
from cli.cluster.installation.choices import Choices
from cli.cluster.installation.rendering import render
from cli.main import run
from cli.text.exit_codes import ExitCode
from scripts.chart.__main__ import CHART, MANIFESTS
from tests.kubernetes.harness.api_server import ApiServer
from tests.kubernetes.harness.helm import run_helm

pytestmark = pytest.mark.each_release

SINGLE = str(MANIFESTS / "overlays" / "single")


@pytest.fixture(scope="module")
def server(make_api_server: Callable[..., ApiServer]) -> ApiServer:
    """One of its own: the webhook, which nobody answers here, refuses every pod that asks for injection."""
    return make_api_server()


@pytest.fixture(autouse=True)
def administrator(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(server.admin))


def answer(capsys: pytest.CaptureFixture[str], *command: str, code: int = ExitCode.SUCCESS) -> dict[str, Any]:
    capsys.readouterr()
    assert run([*command, "--json"]) == code, capsys.readouterr().err
    out, err = capsys.readouterr()
    found: dict[str, Any] = json.loads(out if code in (ExitCode.SUCCESS, ExitCode.DEADLINE) else err)
    return found


def effects(answered: dict[str, Any]) -> set[str]:
    return {each["effect"] for each in answered["changes"]}


def list_ours(server: ApiServer) -> list[str]:
    """Each object with our label that isn't being deleted."""
    kinds = ",".join(f"{kind.plural}.{kind.group}" if kind.group else kind.plural for kind in KINDS.values())
    found = server.kubectl.get(kinds, "-A", "-l", OURS)["items"]
    return [
        f"{each['kind']} {each['metadata']['name']}" for each in found if "deletionTimestamp" not in each["metadata"]
    ]


def roll_out(server: ApiServer, namespace: str) -> None:
    """Play the controllers and the CA: the Deployment's pods serve, and the webhook knows the roots."""
    generation = server.kubectl.get("deployment", "touchmark-ca", "-n", namespace)["metadata"]["generation"]
    counts = {"replicas": 1, "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1}
    patch = json.dumps({"status": {"observedGeneration": generation, **counts}})
    deployment = ("deployment", "touchmark-ca", "-n", namespace)
    server.kubectl("patch", *deployment, "--subresource=status", "--type=merge", "-p", patch)
    webhook = ("mutatingwebhookconfiguration", "touchmark")
    paths = [
        f"/webhooks/{index}/clientConfig/caBundle" for index in range(len(server.kubectl.get(*webhook)["webhooks"]))
    ]
    change = json.dumps([{"op": "add", "path": path, "value": write_bundle(server)} for path in paths])
    server.kubectl("patch", *webhook, "--type=json", "--field-manager=touchmark", "-p", change)


def write_bundle(server: ApiServer) -> str:
    """The API server takes no caBundle that holds no certificate."""
    return base64.b64encode(server.ca.certificate).decode()


def test_installed_changed_and_uninstalled(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole life in one cluster: no node and no storage class here, so that the preflight is forced."""
    refused = answer(capsys, "install", "--yes", code=ExitCode.CHECK_FAILED)
    assert refused["code"] == "preflight_failed"
    assert list_ours(server) == []

    made = answer(capsys, "install", "--yes", "--force", "--no-wait")
    assert effects(made) == {"created"}
    assert len(list_ours(server)) == len(made["changes"])
    # kubectl would change nothing of it: its exit code says so.
    difference = server.kubectl.run("diff", "--server-side", "--force-conflicts", "-k", SINGLE)
    assert difference.returncode == 0, difference.stdout + difference.stderr
    assert answer(capsys, "install", "--yes", "--force", code=ExitCode.CONFLICT)["code"] == "already_installed"

    late = answer(capsys, "upgrade", "--yes", "--force", "--timeout", "0.01", code=ExitCode.DEADLINE)
    assert (effects(late), late["is_ready"]) == ({"unchanged"}, False)
    roll_out(server, "touchmark-system")
    same = answer(capsys, "upgrade", "--yes", "--force", "--timeout", "60")
    assert (effects(same), same["is_ready"]) == ({"unchanged"}, True)
    changed = answer(capsys, "upgrade", "--yes", "--force", "--no-wait", "--priority-class", "system-cluster-critical")
    [change] = [each for each in changed["changes"] if each["effect"] == "changed"]
    assert change["kind"] == "Deployment"
    assert "spec.template.spec.priorityClassName" in [each["path"] for each in change["fields"]]
    webhook = server.kubectl.get("mutatingwebhookconfiguration", "touchmark")
    assert {each["clientConfig"]["caBundle"] for each in webhook["webhooks"]} == {write_bundle(server)}, (
        "the CA's own field stays"
    )

    policy = {"apiVersion": "touchmark.dev/v1alpha1", "kind": "MeshPolicy"}
    server.create_namespace("shop")
    server.kubectl.apply({**policy, "metadata": {"name": "default", "namespace": "shop"}, "spec": {}})
    kept = answer(capsys, "uninstall", "--yes", "--no-wait")
    assert {each["kind"] for each in kept["kept"]} == {
        "CustomResourceDefinition", "Namespace", "PersistentVolumeClaim",
    }  # fmt: skip
    assert server.kubectl.get("meshpolicy", "-n", "shop", "default")
    left = {each.partition(" ")[0] for each in list_ours(server)}
    assert left == {"CustomResourceDefinition", "Namespace", "PersistentVolumeClaim"}

    again = answer(capsys, "install", "--yes", "--force", "--no-wait")
    assert effects(again) == {"created", "unchanged"}
    gone = answer(capsys, "uninstall", "--yes", "--no-wait", "--delete-data", "--delete-policies")
    assert (gone["kept"], gone["foreign"]) == ([], [])
    assert list_ours(server) == []


def test_what_kubectl_has_installed_is_left_to_it(
    server: ApiServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """In another namespace: the first one waits for its deletion."""
    documents = render(load_objects(has_database=False), Choices(namespace="mesh", image="r/ca:0.2.0"))
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all(documents), encoding="utf-8")
    server.kubectl("apply", "--server-side", "-f", str(tmp_path / "all.yaml"))
    place = ("--system-namespace", "mesh", "--yes", "--force", "--no-wait")
    assert effects(answer(capsys, "upgrade", *place)) == {"unchanged"}
    refused = answer(capsys, "upgrade", *place, "--image", "r/ca:other", code=ExitCode.CONFLICT)
    assert refused["code"] == "owned_elsewhere"
    image = server.kubectl.get("deployment", "touchmark-ca", "-n", "mesh")["spec"]["template"]["spec"]
    assert image["containers"][0]["image"] == "r/ca:0.2.0", "nothing was changed"
    assert effects(answer(capsys, "upgrade", *place, "--image", "r/ca:other", "--force-conflicts")) >= {"changed"}
    # A Secret of somebody else keeps the namespace.
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "own", "namespace": "mesh"}}
    server.kubectl.apply(secret)
    gone = answer(capsys, "uninstall", *place, "--delete-data", "--delete-policies")
    assert gone["foreign"] == ["Secret own"]
    assert list_ours(server) == ["Namespace mesh"]


def make_ours(namespace: str) -> list[dict[str, Any]]:
    """What the command would make, but for the namespace, and the settings, whose name Kustomize makes."""
    documents = render(load_objects(has_database=False), Choices(namespace=namespace))
    return [each for each in documents if each["kind"] not in ("Namespace", "ConfigMap")]


def test_what_helm_has_installed_is_left_to_helm(
    server: ApiServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    others = list_ours(server)
    release = ("touchmark", "--namespace", "release")
    chart = (str(CHART), "--set", "crds.keep=false", "--set", "sidecar.images={r/sidecar:0.2.0}")
    tried = run_helm(
        tmp_path, "install", *release, *chart, "--create-namespace", "--dry-run=server", "--output", "json"
    )
    tried_kinds = {each["kind"] for each in yaml.safe_load_all(json.loads(tried)["manifest"]) if each}
    assert tried_kinds >= {"Deployment", "MutatingWebhookConfiguration", "ValidatingAdmissionPolicy"}
    notes = json.loads(tried)["info"]["notes"]
    assert "touchmark doctor -k --system-namespace release  " in notes, "Helm says what to do next"
    assert "touchmark/ca" in notes, "and that the image is to be built"
    assert list_ours(server) == others, "a trial makes nothing"

    run_helm(tmp_path, "install", *release, *chart, "--create-namespace")
    place = ("--system-namespace", "release", "--yes", "--force", "--no-wait")
    assert {f"{each['kind']} {each['metadata']['name']}" for each in make_ours("release")} <= {*list_ours(server)}
    assert answer(capsys, "upgrade", *place, code=ExitCode.CONFLICT)["code"] == "owned_elsewhere"
    refused = answer(capsys, "uninstall", "--system-namespace", "release", "--yes", code=ExitCode.CONFLICT)
    assert refused["hint"].startswith("helm uninstall touchmark --namespace release")

    run_helm(tmp_path, "upgrade", *release, *chart, "--set", "priorityClassName=system-cluster-critical")
    pod = server.kubectl.get("deployment", "touchmark-ca", "-n", "release")["spec"]["template"]["spec"]
    assert pod["priorityClassName"] == "system-cluster-critical"
    run_helm(tmp_path, "uninstall", *release)
    volume = "PersistentVolumeClaim touchmark-ca"
    assert sorted(list_ours(server)) == sorted([*others, volume]), "Helm is told to keep the store"
    run_helm(tmp_path, "install", *release, *chart, "--set", "storage.keep=false")
    run_helm(tmp_path, "uninstall", *release)
    assert list_ours(server) == others, "and takes it back, as it was told"


def test_who_may_not_is_told_which_rights_are_missing(
    server: ApiServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig("nobody")))
    refused = answer(capsys, "install", "--yes", code=ExitCode.CHECK_FAILED)
    assert (refused["code"], "create namespaces" in refused["message"]) == ("preflight_failed", True)


def test_who_may_not_delete_all_of_it_deletes_nothing(
    server: ApiServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    others = list_ours(server)
    place = ("--system-namespace", "third", "--yes", "--force", "--no-wait")
    answer(capsys, "install", *place)
    before = list_ours(server)
    rules = [
        {"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list"]},
        {
            "apiGroups": ["admissionregistration.k8s.io"],
            "resources": ["mutatingwebhookconfigurations"],
            "verbs": ["delete"],
        },
    ]
    group = "rbac.authorization.k8s.io"
    server.kubectl.apply(
        {"apiVersion": f"{group}/v1", "kind": "ClusterRole", "metadata": {"name": "half"}, "rules": rules},
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "half"},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "half"},
            "subjects": [{"apiGroup": group, "kind": "User", "name": "half"}],
        },
    )
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig("half")))
    refused = answer(capsys, "uninstall", *place[:-2], code=ExitCode.REFUSED)
    assert (refused["code"], list_ours(server)) == ("forbidden", before)
    # Of whom forgets where it is, nothing is deleted either.
    monkeypatch.setenv("KUBECONFIG", str(server.admin))
    elsewhere = answer(capsys, "uninstall", "--yes", "--delete-policies", code=ExitCode.CONFLICT)
    assert (elsewhere["hint"], list_ours(server)) == ("--system-namespace third", before)
    gone = answer(capsys, "uninstall", *place, "--delete-data", "--delete-policies")
    assert (gone["foreign"], list_ours(server)) == ([], others)
