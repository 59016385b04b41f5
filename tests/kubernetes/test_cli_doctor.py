"""`touchmark doctor -k` and `status -k` on a real API server, with the installation that the manifests make."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.main import run
from cli.text.exit_codes import ExitCode
from tests.kubernetes.harness.api_server import ApiServer
from tests.kubernetes.harness.kubectl import KubectlError

pytestmark = pytest.mark.each_release

MANIFESTS = Path(__file__).parents[2] / "manifests"
SIDECAR = {"name": "touchmark-sidecar", "image": "touchmark/sidecar:0.1.0", "restartPolicy": "Always"}


@pytest.fixture(scope="module")
def installed(make_api_server: Callable[..., ApiServer]) -> ApiServer:
    """A server of its own: the webhook, which nobody answers here, refuses every pod that asks for injection."""
    server = make_api_server()
    server.create_namespace("default")
    server.kubectl("apply", "-k", str(MANIFESTS / "overlays" / "single"))
    server.kubectl.wait_until_established()
    return server


@pytest.fixture
def administrator(installed: ApiServer, monkeypatch: pytest.MonkeyPatch) -> ApiServer:
    monkeypatch.setenv("KUBECONFIG", str(installed.admin))
    return installed


def examine(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    capsys.readouterr()
    assert run(["doctor", "--cluster", "--json"]) == ExitCode.CHECK_FAILED
    findings = json.loads(capsys.readouterr().out)["findings"]
    return {finding["subject"]: finding for finding in findings}


def create_pod(server: ApiServer, namespace: str, name: str, **labels: str) -> None:
    """An injected pod, as the API server keeps it: no webhook has to make it."""
    server.create_namespace(namespace)
    server.kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": labels},
            "spec": {"initContainers": [SIDECAR], "containers": [{"name": "app", "image": "app"}]},
        }
    )


def test_an_installation_whose_ca_hasn_t_started_is_told_piece_by_piece(
    administrator: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    found = examine(capsys)
    for subject in ("API server", "clocks of this machine and the API server", "resources"):
        assert found[subject]["is_well"], found[subject]
    assert "has no caBundle yet" in found["webhook configuration"]["observation"]
    assert "failed calling webhook" in found["webhook"]["observation"]
    assert "none in touchmark-system" in found["CA's pods"]["observation"]
    assert "no CA runs in namespace touchmark-system" in found["CA's status"]["observation"]
    assert found["NetworkPolicies"]["is_well"]


def test_the_installation_gives_the_ca_every_right(
    administrator: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert examine(capsys)["CA's permissions"]["observation"] == "complete"


def test_a_right_that_somebody_took_away_is_named(administrator: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    role = administrator.kubectl.get("clusterrole", "touchmark-ca")
    taken = [rule for rule in role["rules"] if "endpointslices" not in rule["resources"]]
    patch = json.dumps({"rules": taken})
    administrator.kubectl("patch", "clusterrole", "touchmark-ca", "--type=merge", "-p", patch)
    try:
        found = examine(capsys)["CA's permissions"]
    finally:
        back = json.dumps({"rules": role["rules"]})
        administrator.kubectl("patch", "clusterrole", "touchmark-ca", "--type=merge", "-p", back)
    assert found["observation"].startswith("missing: ")
    assert "list endpointslices.discovery.k8s.io, watch endpointslices.discovery.k8s.io" in found["observation"]


def test_policies_levels_and_missing_sidecars_are_found_in_real_objects(
    administrator: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    create_pod(administrator, "shop", "web-1", app="web")
    create_pod(administrator, "shop", "db-0", app="db")
    plain = {"name": "old-1", "namespace": "bank"}
    administrator.create_namespace("bank")
    administrator.kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": plain,
            "spec": {"containers": [{"name": "app", "image": "app"}]},
        },
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "db", "namespace": "shop"},
            "spec": {
                "podSelector": {"matchLabels": {"app": "db"}},
                "ingress": [
                    {
                        "from": [{"podSelector": {"matchLabels": {"app": "web"}}}],
                        "ports": [{"protocol": "TCP", "port": 5432}],
                    }
                ],
            },
        },
    )
    labels = {"touchmark.dev/inject": "true", "pod-security.kubernetes.io/enforce": "baseline"}
    administrator.create_namespace("bank", labels=labels)
    found = examine(capsys)
    assert found["Pod Security"]["observation"] == "forbids injection: bank enforces baseline"
    assert "bank/old-1" in found["injection"]["observation"]
    tunnel = found["NetworkPolicy shop/db"]
    assert "ingress drops TCP 15008" in tunnel["observation"]
    assert "shop/web-1 → shop/db-0" in tunnel["observation"]
    assert found["sidecar images"]["observation"] == "2× touchmark/sidecar:0.1.0"


def test_a_request_that_the_api_server_does_not_see_is_named(
    administrator: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing refuses these objects, and no webhook is asked: they'd stay outside the mesh without a word."""
    administrator.create_namespace("park", labels={"touchmark.dev/inject": "enabled"})
    administrator.kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "kiosk", "namespace": "park", "labels": {"touchmark.dev/inject": "true"}},
            "spec": {"containers": [{"name": "app", "image": "app"}]},
        }
    )
    found = examine(capsys)["injection requests"]
    assert not found["is_well"]
    assert "neither true nor false: park ('enabled')" in found["observation"]
    assert "instead of an annotation: park/kiosk" in found["observation"]
    administrator.kubectl("label", "namespace", "park", "--overwrite", "touchmark.dev/inject=false")
    administrator.kubectl("label", "pod", "-n", "park", "kiosk", "touchmark.dev/inject-")
    assert examine(capsys)["injection requests"]["is_well"]


def test_an_operator_learns_what_the_role_lets_see_and_the_rest_is_unknown(
    installed: ApiServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    subject = "--user=olga"
    installed.kubectl("create", "clusterrolebinding", "olga", "--clusterrole=touchmark-operator", subject)
    installed.kubectl("create", "rolebinding", "olga", "-n", "touchmark-system", "--role=touchmark-connect", subject)
    monkeypatch.setenv("KUBECONFIG", str(installed.kubeconfig("olga")))
    found = examine(capsys)
    assert found["resources"]["is_well"]
    unknown = {name for name, each in found.items() if each["observation"].startswith("unknown")}
    assert unknown == {"CA's permissions", "webhook", "CA's status"}
    assert 'resources: ["subjectaccessreviews"]' in found["CA's permissions"]["hint"]
    assert found["CA's permissions"]["is_optional"]


def test_status_without_a_ca_says_what_is_missing(administrator: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run(["status", "-k"]) == ExitCode.UNAVAILABLE
    assert "error[no_ca_pod]: no CA runs in namespace touchmark-system" in capsys.readouterr().err


def test_what_an_installation_would_meet_is_told_before_it(
    administrator: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """`doctor --pre`; what it says of a LimitRange, the API server's admission says, too."""
    administrator.create_namespace("tight", labels={"touchmark.dev/inject": "true"})
    limits = [{"type": "Container", "max": {"memory": "256Mi"}}]
    metadata = {"name": "small", "namespace": "tight"}
    administrator.kubectl.apply(
        {"apiVersion": "v1", "kind": "LimitRange", "metadata": metadata, "spec": {"limits": limits}}
    )
    resources = {"requests": {"memory": "64Mi"}, "limits": {"memory": "512Mi"}}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "like-a-sidecar", "namespace": "tight", "annotations": {"touchmark.dev/inject": "false"}},
        "spec": {"containers": [{"name": "app", "image": "app", "resources": resources}]},
    }
    with pytest.raises(KubectlError, match="maximum memory usage per Container is 256Mi"):
        administrator.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))
    capsys.readouterr()
    assert run(["doctor", "--pre", "--json"]) == ExitCode.CHECK_FAILED
    found = {each["subject"]: each for each in json.loads(capsys.readouterr().out)["findings"]}
    assert "tight wouldn't admit a sidecar: a LimitRange allows 256Mi" in found["limits and quotas"]["observation"]
    for subject in ("API server", "admission API", "your permissions", "existing installation", "priority class"):
        assert found[subject]["is_well"], found[subject]
    assert "the same again" in found["existing installation"]["observation"]
    assert run(["doctor", "--pre", "--system-namespace", "mesh", "--json"]) == ExitCode.CHECK_FAILED
    found = {each["subject"]: each for each in json.loads(capsys.readouterr().out)["findings"]}
    assert "in the namespace touchmark-system" in found["existing installation"]["observation"]
    assert "will be made" in found["namespace mesh"]["observation"]


def test_who_may_not_install_is_told_what_is_missing(
    installed: ApiServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(installed.kubeconfig("nobody")))
    assert run(["doctor", "--pre", "--json"]) == ExitCode.CHECK_FAILED
    found = {each["subject"]: each for each in json.loads(capsys.readouterr().out)["findings"]}
    assert "create namespaces" in found["your permissions"]["observation"]
    assert found["limits and quotas"]["observation"].startswith("unknown: you may not list")
