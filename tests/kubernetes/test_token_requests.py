"""Only nodes get tokens with which a sidecar joins: the right to make a service account's tokens isn't enough."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.model.kubernetes.contract import TOKEN_AUDIENCE
from tests.kubernetes.harness.api_server import ApiServer
from tests.kubernetes.harness.kubectl import Kubectl, KubectlError
from tests.kubernetes.harness.processes import wait_until
from tests.kubernetes.test_api_server import pod

pytestmark = pytest.mark.each_release

POLICY = Path(__file__).parents[2] / "manifests/base/token-requests.yaml"
NODE = "node-1"
REFUSED = "only nodes ask for tokens of the audience touchmark-ca"


@pytest.fixture
def bound(api_server: ApiServer, namespace: str) -> Iterator[list[str]]:
    """What asks for a token of a pod on the node, while the policy is in force."""
    document = pod(namespace, "web")
    document["spec"]["nodeName"] = NODE
    # A node gets tokens of those audiences only that its pods mount.
    token = {"serviceAccountToken": {"audience": TOKEN_AUDIENCE, "path": "token"}}
    document["spec"]["volumes"] = [{"name": "token", "projected": {"sources": [token]}}]
    api_server.kubectl.apply(document)
    uid = api_server.kubectl.get("pod", "web", "-n", namespace)["metadata"]["uid"]
    api_server.kubectl("apply", "--server-side", "-f", str(POLICY))
    try:
        yield [
            *("create", "token", "default", "-n", namespace, "--duration=3600s"),
            *("--bound-object-kind=Pod", "--bound-object-name=web", f"--bound-object-uid={uid}"),
        ]
    finally:
        api_server.kubectl("delete", "-f", str(POLICY))


def test_whoever_may_edit_a_namespace_gets_no_token_of_its_pods_and_a_node_does(
    api_server: ApiServer, namespace: str, bound: list[str]
) -> None:
    # The controller that would put `edit` together isn't there; this is what it would be put together from.
    role = "--clusterrole=system:aggregate-to-edit"
    api_server.kubectl("create", "rolebinding", "eve", "-n", namespace, role, "--user=eve")
    eve = Kubectl(api_server.kubeconfig("eve"))
    ours = f"--audience={TOKEN_AUDIENCE}"
    wait_until(lambda: REFUSED in eve.run(*bound, ours).stderr, timeout_s=60)
    for audiences in ([ours], [ours, "--audience=other"]):
        for kubectl in (eve, api_server.kubectl):  # An administrator's request is refused as well.
            with pytest.raises(KubectlError, match=REFUSED):
                kubectl(*bound, *audiences)
    assert eve(*bound, "--audience=other").strip()
    assert eve(*bound).strip()

    node = Kubectl(api_server.kubeconfig(f"system:node:{NODE}", groups=["system:nodes"]))
    # The API server hears of the pod's node a moment later.
    wait_until(lambda: node.run(*bound, ours).returncode == 0, timeout_s=60)
    status = api_server.review_token(node(*bound, ours).strip(), TOKEN_AUDIENCE)
    assert status["user"]["extra"]["authentication.kubernetes.io/pod-name"] == ["web"]
    pretender = Kubectl(api_server.kubeconfig(f"system:node:{NODE}"))
    with pytest.raises(KubectlError):
        pretender(*bound, ours)
