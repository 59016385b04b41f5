"""The command against a real CA, whose admin API is reached through a real API server, and whose webhook it asks."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.main import run
from cli.text.exit_codes import ExitCode
from tests.kubernetes.forwarding import NAMESPACE, running_ca_pod
from tests.kubernetes.harness.api_server import ApiServer
from tests.kubernetes.harness.processes import wait_until
from tests.kubernetes.webhook_ca import WebhookCA

MANIFESTS = Path(__file__).parents[2] / "manifests"


@pytest.fixture(scope="module")
def server(make_api_server: Callable[..., ApiServer]) -> ApiServer:
    made = make_api_server()
    for name in ("default", NAMESPACE):
        made.create_namespace(name)
    made.kubectl("apply", "-k", str(MANIFESTS / "overlays" / "single"))
    # Nothing routes its Service here: the CA's own fixture brings one with URLs.
    made.kubectl("delete", "mutatingwebhookconfiguration", "touchmark")
    made.kubectl.wait_until_established()
    return made


@pytest.fixture(scope="module")
def ca(server: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebhookCA]:
    directory = tmp_path_factory.mktemp("ca")
    own = WebhookCA(server, directory)
    own.kubeconfig = server.service_account_kubeconfig(NAMESPACE, "touchmark-ca")  # With the installation's own rights.
    with own as running, running_ca_pod(server, directory) as kubelet:
        kubelet.forward_to = directory / "admin.sock"
        yield running


@pytest.fixture(autouse=True)
def in_cluster(server: ApiServer, ca: WebhookCA, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(server.admin))
    monkeypatch.setenv("TOUCHMARK_KUBERNETES", "1")


def examine(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    capsys.readouterr()
    run(["doctor", "--json"])
    return {finding["subject"]: finding for finding in json.loads(capsys.readouterr().out)["findings"]}


def test_where_everything_works_doctor_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    found = examine(capsys)
    faults = {name: each["observation"] for name, each in found.items() if not each["is_well"]}
    assert faults == {}
    assert "got its sidecar" in found["webhook"]["observation"]
    assert "trusts their certificate" in found["webhook configuration"]["observation"]
    assert {"pods", "services"} <= set(found["CA's view of the cluster"]["observation"].replace(",", "").split())
    assert "clocks of the CA and the API server" in found


def test_a_ca_bundle_that_somebody_changed_is_told_from_the_right_one(
    server: ApiServer, ca: WebhookCA, capsys: pytest.CaptureFixture[str]
) -> None:
    """The CA would write its own back at once: so it is the CA that stands still."""
    right = ca.read_bundles()[0]
    other = base64.b64encode(server.ca.certificate).decode()
    ca.stop()
    try:
        operations = [
            {"op": "replace", "path": f"/webhooks/{index}/clientConfig/caBundle", "value": other}
            for index in range(len(ca.read_bundles()))
        ]
        server.kubectl(
            "patch", "mutatingwebhookconfiguration", "touchmark", "--type=json", "-p", json.dumps(operations)
        )
        found = examine(capsys)
        assert "failed calling webhook" in found["webhook"]["observation"]
        assert found["CA's status"]["observation"].startswith("unknown: ")
    finally:
        ca.start()
        # Its earlier self held the Lease: until that has passed, nobody keeps the object.
        wait_until(lambda: set(ca.read_bundles()) == {right}, timeout_s=60.0)


def test_status_counts_pods_of_the_real_api_server(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.create_namespace("shop", labels={"touchmark.dev/inject": "true"})
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web-1", "namespace": "shop"},
        "spec": {"containers": [{"name": "app", "image": "app"}]},
    }
    server.kubectl.apply(pod)
    capsys.readouterr()
    assert run(["status", "--json"]) == ExitCode.SUCCESS
    answer = json.loads(capsys.readouterr().out)
    [row] = [row for row in answer["namespaces"] if row["namespace"] == "shop"]
    assert (row["injected"], row["not_injected"], row["live"]) == (1, 0, 0)


def test_every_verb_that_asks_the_ca_reaches_it(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in (["ca", "status"], ["identities"], ["connections"], ["decisions"], ["decisions", "--summary"]):
        assert run([*verb, "--json"]) == ExitCode.SUCCESS, verb
    before = json.loads(capsys.readouterr().out.splitlines()[0])["rotation"]["step"]
    assert before == "none"
    assert run(["ca", "rotate", "issuer", "--json"]) == ExitCode.SUCCESS
    assert json.loads(capsys.readouterr().out)["step"] in ("active", "retired")
    assert run(["mode", "shop", "--check"]) == ExitCode.SUCCESS


def test_a_mode_on_trial_goes_back_by_what_its_object_says(server: ApiServer) -> None:
    """With the installation's own rights, which don't include writing MeshPolicies."""
    namespace = f"tried-{uuid.uuid4().hex[:8]}"
    server.create_namespace(namespace)

    def policy() -> dict[str, Any]:
        found: dict[str, Any] = server.kubectl.get("meshpolicy", "default", "-n", namespace)
        return found

    assert run(["mode", namespace, "explicit", "--yes", "--for", "1h", "--timeout", "120"]) == ExitCode.SUCCESS
    assert (policy()["spec"]["trial"]["backTo"], policy()["status"]["mode"]) == ("permissive", "explicit")
    assert run(["mode", namespace, "confirm", "--timeout", "120"]) == ExitCode.SUCCESS
    assert policy()["spec"] == {"mode": "explicit"}
    run(["mode", namespace, "permissive", "--for", "1s", "--timeout", "120"])

    def is_back() -> bool:
        found = policy()
        status = found.get("status", {})
        is_observed = status.get("observedGeneration") == found["metadata"]["generation"]
        return bool(is_observed and status["mode"] == "explicit")

    wait_until(is_back, timeout_s=150)
    assert policy()["spec"]["trial"]["backTo"] == "explicit"
    assert run(["mode", namespace, "confirm"]) == ExitCode.CONFLICT


def test_one_workload_is_tried_for_a_while_where_the_others_have_a_mode_of_their_own(
    server: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """What docs/how-to/modes.md does in the place of --for with --workload, which is refused in a cluster."""
    namespace = f"tried-{uuid.uuid4().hex[:8]}"
    server.create_namespace(namespace)
    for account in ("web", "db"):
        server.kubectl("create", "serviceaccount", account, "-n", namespace)
    assert run(["mode", namespace, "explicit", "--workload", "db", "--yes", "--for", "10m"]) == ExitCode.BAD_INPUT
    assert f"touchmark mode {namespace} explicit --for 10m" in capsys.readouterr().err

    def in_force() -> tuple[str, dict[str, str]]:
        status = server.kubectl.get("meshpolicy", "default", "-n", namespace).get("status", {})
        return status.get("mode", ""), status.get("workloadModes", {})

    assert run(["mode", namespace, "permissive", "--workload", "web", "--timeout", "120"]) == ExitCode.SUCCESS
    assert run(["mode", namespace, "explicit", "--yes", "--for", "1h", "--timeout", "120"]) == ExitCode.SUCCESS
    assert in_force() == ("explicit", {"web": "permissive"})
    run(["mode", namespace, "explicit", "--yes", "--for", "1s", "--timeout", "120"])
    wait_until(lambda: in_force() == ("permissive", {"web": "permissive"}), timeout_s=150)


def test_explain_takes_pods_and_services_by_name_with_the_users_own_rights(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.create_namespace("named")
    for account in ("web", "db"):
        server.kubectl("create", "serviceaccount", account, "-n", "named")
    ports = [{"name": "sql", "containerPort": 5433}]
    for name, injected in (("web", True), ("db", True), ("plain", False)):
        account = name if injected else "default"
        annotations = {"touchmark.dev/inject": str(injected).lower()}
        spec = {"serviceAccountName": account, "containers": [{"name": "app", "image": "app", "ports": ports}]}
        metadata = {"name": f"{name}-0", "namespace": "named", "labels": {"app": name}, "annotations": annotations}
        server.kubectl.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        offered = {"selector": {"app": name}, "ports": [{"port": 5432, "targetPort": "sql"}]}
        metadata = {"name": name, "namespace": "named"}
        server.kubectl.apply({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": offered})
    addresses = {"podIP": "198.18.0.99", "podIPs": [{"ip": "198.18.0.99"}]}
    status = json.dumps({"status": {"phase": "Running", **addresses}})
    server.kubectl("patch", "pod", "plain-0", "-n", "named", "--subresource=status", "-p", status)

    def explain(*ends: str) -> tuple[int, str]:
        capsys.readouterr()
        code, (out, err) = run(["explain", *ends]), capsys.readouterr()
        return code, out + err

    code, said = explain("pod/web-0", "svc/db", "-n", "named")
    # Nothing is refused, and nobody has joined from those pods.
    assert code == ExitCode.UNKNOWN, said
    assert "pod/named/web-0 is named/web\nsvc/named/db is named/db, port 5433 (1 pod)\n" in said
    assert "port 5433: allowed" in said
    code, said = explain("pod/named/web-0", "svc/named/plain:5432")
    assert code == ExitCode.UNKNOWN, said
    assert "svc/named/plain:5432 is 198.18.0.99, port 5433 (1 pod without a sidecar)" in said
    assert explain("named/web", "svc/named/nobody:80")[0] == ExitCode.NOT_FOUND

    subject = {"kind": "User", "name": "reader", "apiGroup": "rbac.authorization.k8s.io"}
    rbac = {"apiVersion": "rbac.authorization.k8s.io/v1"}
    reference = {"kind": "Role", "name": "touchmark-connect", "apiGroup": "rbac.authorization.k8s.io"}
    metadata = {"name": "reader", "namespace": NAMESPACE}
    server.kubectl.apply(
        {**rbac, "kind": "RoleBinding", "metadata": metadata, "roleRef": reference, "subjects": [subject]}
    )
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig("reader")))
    code, said = explain("named/web", "svc/named/db")
    assert code == ExitCode.REFUSED, said
    assert "services" in said
