"""The API level's own parts: a real API server that answers, keeps its data and knows who asks."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import kubernetes.aio.client
import kubernetes.aio.config
import pytest

from tests.kubernetes.harness import pki
from tests.kubernetes.harness.api_server import ApiServer
from tests.kubernetes.harness.kubectl import Kubectl, KubectlError
from tests.kubernetes.harness.processes import wait_until


def config_map(namespace: str, name: str, **data: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def pod(namespace: str, name: str) -> dict[str, Any]:
    spec = {"containers": [{"name": "app", "image": "localhost/none:1"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace}, "spec": spec}


@pytest.fixture(scope="module")
def server(make_api_server: Callable[..., ApiServer]) -> ApiServer:
    """One of this module's own, that tests may stop."""
    return make_api_server(arguments=["--service-account-max-token-expiration=3600s"])


def test_it_answers(api_server: ApiServer) -> None:
    assert api_server.request("/readyz") == (200, b"ok")
    assert json.loads(api_server.kubectl("version", "-o", "json"))["serverVersion"]["major"] == "1"


async def test_the_client_library_speaks_to_it(api_server: ApiServer, namespace: str) -> None:
    """`kubernetes.aio`, with which the CA talks to Kubernetes."""
    client = await kubernetes.aio.config.new_client_from_config(config_file=str(api_server.admin))
    async with client:
        answer = await kubernetes.aio.client.CoreV1Api(client).list_namespace()
    assert namespace in {each.metadata.name for each in answer.items if each.metadata is not None}


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
def test_a_restart_keeps_data_address_and_kubeconfigs(server: ApiServer, kill: bool) -> None:
    server.create_namespace("kept")
    server.kubectl.apply(config_map("kept", "it", answer="42"))
    token, url = server.token("kept", "default"), server.url
    server.stop_server(kill=kill)
    assert not server.is_ready()
    server.start()
    assert server.url == url
    assert server.kubectl.get("configmap", "it", "-n", "kept")["data"] == {"answer": "42"}
    assert server.review_token(token)["authenticated"] is True


def test_a_kubeconfig_is_who_it_says(api_server: ApiServer) -> None:
    """User and groups arrive; who is granted nothing may do nothing."""
    kubectl = Kubectl(api_server.kubeconfig("jane", groups=["operators", "auditors"]))
    info = json.loads(kubectl("auth", "whoami", "-o", "json"))["status"]["userInfo"]
    assert info["username"] == "jane"
    assert {"operators", "auditors"} <= set(info["groups"])
    with pytest.raises(KubectlError, match="forbidden"):
        kubectl("get", "secrets", "-n", "default")


def test_a_service_account_has_what_rbac_grants(api_server: ApiServer, namespace: str) -> None:
    kubectl = Kubectl(api_server.service_account_kubeconfig(namespace, "reader"))
    with pytest.raises(KubectlError, match="forbidden"):
        kubectl.get("configmaps", "-n", namespace)
    account = f"--serviceaccount={namespace}:reader"
    api_server.kubectl("create", "role", "reader", "-n", namespace, "--verb=list", "--resource=configmaps")
    api_server.kubectl("create", "rolebinding", "reader", "-n", namespace, "--role=reader", account)
    wait_until(lambda: kubectl.run("get", "configmaps", "-n", namespace).returncode == 0, timeout_s=60)
    with pytest.raises(KubectlError, match="forbidden"):
        kubectl.get("secrets", "-n", namespace)


def test_a_bound_token_names_its_pod_and_dies_with_it(api_server: ApiServer, namespace: str) -> None:
    api_server.kubectl.apply(pod(namespace, "bound"))
    token = api_server.token(namespace, "default", audiences=["ca"], pod="bound")
    status = api_server.review_token(token, "ca")
    assert status["user"]["username"] == f"system:serviceaccount:{namespace}:default"
    assert status["user"]["extra"]["authentication.kubernetes.io/pod-name"] == ["bound"]
    assert "error" in api_server.review_token(token, "another")
    api_server.kubectl("delete", "pod", "bound", "-n", namespace, "--force", "--grace-period=0")
    wait_until(lambda: not api_server.review_token(token, "ca").get("authenticated"), timeout_s=60)


def test_a_token_whose_time_is_over_is_refused(api_server: ApiServer, namespace: str) -> None:
    token = api_server.token(namespace, "default", audiences=["ca"])
    now = int(time.time())
    assert api_server.review_token(api_server.resign(token, exp=now + 60), "ca")["authenticated"] is True
    assert not api_server.review_token(api_server.resign(token, exp=now - 60), "ca").get("authenticated")


def test_the_audit_log_names_who_did_what(api_server: ApiServer, namespace: str) -> None:
    kubectl = Kubectl(api_server.kubeconfig("auditee", groups=["system:masters"]))
    kubectl.get("configmaps", "-n", namespace)
    seen = [(event["verb"], event["objectRef"]["resource"]) for event in api_server.audit(user="auditee")]
    assert ("list", "configmaps") in seen


def test_further_arguments_reach_it(server: ApiServer) -> None:
    server.create_namespace("short")
    claims = pki.read_claims(server.token("short", "default", lifetime_s=7200))
    assert claims["exp"] - claims["iat"] == 3600
