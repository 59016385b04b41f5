"""A real API server shows the webhook the token that its AdmissionConfiguration names; nobody is answered without."""

from __future__ import annotations

import json
import secrets
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.ca.admission.reviews import make_review
from tests.free_ports import free_port
from tests.kubernetes.harness.api_server import ApiServer
from tests.kubernetes.harness.kubectl import KubectlError
from tests.kubernetes.webhook_ca import WebhookCA
from tests.shared.model.injection.pods import make_pod


def write_admission_configuration(folder: Path, *, host: str, token: str) -> Path:
    """What docs/how-to/kubernetes.md puts on the control plane's machines, where ``host`` is the Service's name."""
    client = {
        "apiVersion": "v1",
        "kind": "Config",
        "users": [{"name": host, "user": {"token": token}}],
    }
    (folder / "webhooks.kubeconfig").write_text(yaml.safe_dump(client), encoding="utf-8")
    plugin = {
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "WebhookAdmissionConfiguration",
        "kubeConfigFile": str(folder / "webhooks.kubeconfig"),
    }
    configuration = {
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "AdmissionConfiguration",
        "plugins": [{"name": "MutatingAdmissionWebhook", "configuration": plugin}],
    }
    path = folder / "admission.yaml"
    path.write_text(yaml.safe_dump(configuration), encoding="utf-8")
    return path


def test_the_api_server_shows_its_token_and_nobody_is_answered_without(
    make_api_server: Callable[..., ApiServer], tmp_path: Path
) -> None:
    port, token = free_port(), secrets.token_hex(32)
    configured = write_admission_configuration(tmp_path, host=f"127.0.0.1:{port}", token=token)
    server = make_api_server(arguments=[f"--admission-control-config-file={configured}"])
    server.create_namespace("shop")
    (tmp_path / "ca").mkdir()

    def create(name: str) -> list[str]:
        pod = make_pod()
        given = {**pod, "metadata": {**pod["metadata"], "name": name, "namespace": "shop"}}
        made = json.loads(server.kubectl("create", "-f", "-", "-o", "json", stdin=json.dumps(given)))
        return [each["name"] for each in made["spec"].get("initContainers", [])]

    # Both tokens while one is changed: the API servers get the new one in turn.
    with WebhookCA(server, tmp_path / "ca", port=port, token=f"{secrets.token_hex(32)} {token}") as ca:
        assert create("asked") == ["touchmark-capture", "touchmark-sidecar"]
        review = json.dumps(make_review(make_pod())).encode()
        unverified = ssl._create_unverified_context()
        assert [each["authenticates"] for each in ca.read_log() if each["event"] == "webhook_serves"] == [True]
        for headers in ({}, {"Authorization": f"Bearer {secrets.token_hex(32)}"}):
            request = urllib.request.Request(f"{ca.url}/v1/inject", data=review, headers=headers)
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(request, context=unverified, timeout=60)
            assert refused.value.code == 401
        ca.stop()
        ca.token = secrets.token_hex(32)
        ca.start()
        with pytest.raises(KubectlError, match="failed to call webhook: the server has asked for the client"):
            create("refused")
