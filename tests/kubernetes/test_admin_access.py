"""Who may ask the CA what is said by a real API server: its tokens, its client certificates, its RBAC."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cli.main import run
from cli.text.exit_codes import ExitCode
from tests.free_ports import free_port
from tests.kubernetes.forwarding import NAMESPACE, running_ca_pod
from tests.kubernetes.harness.api_server import ApiServer
from tests.kubernetes.harness.kubectl import KubectlError
from tests.kubernetes.harness.processes import wait_until
from tests.kubernetes.test_crds import placed
from tests.kubernetes.webhook_ca import WebhookCA
from tests.shared.model.policy.object_cases import policy

pytestmark = pytest.mark.each_release

MANIFESTS = Path(__file__).parents[2] / "manifests"


@pytest.fixture(scope="module")
def server(make_api_server: Callable[..., ApiServer]) -> ApiServer:
    made = make_api_server()
    for name in ("default", "shop", "bank", NAMESPACE):
        made.create_namespace(name)
    made.kubectl("apply", "-k", str(MANIFESTS / "overlays" / "single"))
    made.kubectl("delete", "mutatingwebhookconfiguration", "touchmark")
    made.kubectl.wait_until_established()
    group = "--group=system:authenticated"
    made.kubectl("create", "rolebinding", "all", "-n", NAMESPACE, "--role=touchmark-connect", group)
    # What a controller adds to `view` in a whole cluster.
    made.kubectl("create", "rolebinding", "rita", "-n", "shop", "--clusterrole=touchmark-view", "--user=rita")
    made.create_service_account("shop", "reader")
    reader = "--serviceaccount=shop:reader"
    made.kubectl("create", "rolebinding", "reader", "-n", "shop", "--clusterrole=touchmark-view", reader)
    made.kubectl("create", "clusterrolebinding", "olga", "--clusterrole=touchmark-operator", "--user=olga")
    return made


@pytest.fixture(scope="module")
def ca(server: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebhookCA]:
    """A CA with the installation's own rights; its pod's port leads to its admin port."""
    directory = tmp_path_factory.mktemp("ca")
    port = free_port()
    own = WebhookCA(server, directory, "--admin-listen", f"127.0.0.1:{port}")
    own.kubeconfig = server.service_account_kubeconfig(NAMESPACE, "touchmark-ca")
    with own as running, running_ca_pod(server, directory) as kubelet:
        kubelet.forward_to = port
        yield running


@pytest.fixture
def ask(
    server: ApiServer, ca: WebhookCA, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Run a command as a user, and return its exit code and what it says."""

    def ask(kubeconfig: Path, *command: str) -> tuple[int, str]:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        capsys.readouterr()
        code = run([*command, "-k"])
        said = capsys.readouterr()
        return code, said.out + said.err

    return ask


def test_a_port_forward_makes_nobody_an_administrator(server: ApiServer, ask: Callable[..., tuple[int, str]]) -> None:
    stranger = server.kubeconfig("stranger")
    for command in (["ca", "status"], ["ca", "rotate", "issuer"], ["decisions"], ["edges", "shop"], ["audit", "list"]):
        code, said = ask(stranger, *command)
        assert code == ExitCode.REFUSED, said
        assert "stranger may not" in said and "can grant it: kubectl" in said


@pytest.mark.parametrize("kind", ["certificate", "token"])
def test_a_reader_of_one_namespace_reads_that_one(
    server: ApiServer, ask: Callable[..., tuple[int, str]], kind: str
) -> None:
    if kind == "certificate":
        kubeconfig = server.kubeconfig("rita")
    else:
        kubeconfig = server.service_account_kubeconfig("shop", "reader")
    for command in (["edges", "shop"], ["coverage", "shop"], ["decisions", "--namespace", "shop"]):
        code, said = ask(kubeconfig, *command)
        assert code == ExitCode.SUCCESS, said
    for command in (["edges", "bank"], ["decisions"], ["decisions", "--namespace", "bank"], ["ca", "status"]):
        code, said = ask(kubeconfig, *command)
        assert code == ExitCode.REFUSED, said


def test_an_operator_rotates_and_is_named_in_the_audit_log(
    server: ApiServer, ask: Callable[..., tuple[int, str]]
) -> None:
    olga = server.kubeconfig("olga")
    code, said = ask(olga, "ca", "rotate", "issuer", "--json")
    assert code == ExitCode.SUCCESS, said
    code, said = ask(olga, "audit", "list", "--json")
    assert code == ExitCode.SUCCESS, said
    actors = [each["actor"] for each in json.loads(said)]
    assert "olga" in {each.get("name") for each in actors if each["kind"] == "user"}


def test_nobody_executes_anything_in_the_ca(server: ApiServer, ca: WebhookCA) -> None:
    for pod in ("touchmark-ca-0", "touchmark-ca-6d5c7-x2x"):
        metadata = {"name": pod, "namespace": NAMESPACE}
        security = {
            "runAsNonRoot": True, "runAsUser": 10001, "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
        }  # fmt: skip
        container = {"name": "ca", "image": "ca", "securityContext": security}
        spec = {"containers": [container], "nodeName": "forwarding"}
        server.kubectl.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        for command in (
            ["exec", pod, "--", "id"],
            ["attach", pod],
            ["debug", pod, "--image=x", "--profile=restricted"],
        ):
            with pytest.raises(KubectlError, match=r"the pod is Touchmark's certificate authority"):
                server.kubectl(*command[:1], "-n", NAMESPACE, *command[1:])


def test_a_port_range_from_the_higher_port_is_refused_at_once(server: ApiServer) -> None:
    """By an admission policy: a CRD's own rule would be too expensive for API servers before 1.34."""
    server.create_namespace("ranges")

    def is_refused() -> bool:  # The API server learns of a policy a moment after it was made.
        try:
            server.kubectl.apply(placed(policy({"rules": [{**rule, "ports": ["1000-999"]}]}), "ranges"))
        except KubectlError as error:
            assert "a port range begins with the lower port" in str(error)
            return True
        return False

    rule = {"name": "r", "action": "deny"}
    wait_until(is_refused, timeout_s=120.0)
    for ports in (["999-1000", 80, "7-7", "443"], None):
        spec = {"rules": [rule if ports is None else {**rule, "ports": ports}]}
        server.kubectl.apply(placed(policy(spec), "ranges"))
    server.kubectl.apply(placed(policy({}), "ranges"))
