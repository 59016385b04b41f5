"""A whole CA as a process whose webhook a real API server asks: on 127.0.0.1, as a service account. Does I/O."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import yaml

from shared.model.kubernetes.contract import CLUSTER_ROLE
from tests.free_ports import free_port
from tests.kubernetes.harness.api_server import ApiServer
from tests.kubernetes.harness.processes import Program, wait_until

ROOT = Path(__file__).parents[2]
IMAGE = "registry.example/touchmark-sidecar@sha256:" + "a" * 64
ACCOUNT = "webhook-ca"

# What the CA needs for injection, to know the pods and to lead, and nothing else. That the tests pass proves that it is
# enough: a server-side apply that creates is authorised by name, so that even `create` of ConfigMaps has one.
RULES: list[dict[str, Any]] = [
    {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": [""], "resources": ["pods", "services"], "verbs": ["list", "watch"]},
    {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    {
        "apiGroups": [""],
        "resources": ["configmaps"],
        "resourceNames": ["touchmark-trust"],
        "verbs": ["list", "watch", "create", "patch", "delete"],
    },
    {
        "apiGroups": ["rbac.authorization.k8s.io"],
        "resources": ["clusterroles"],
        "resourceNames": [CLUSTER_ROLE],
        "verbs": ["get"],
    },
    {
        "apiGroups": ["coordination.k8s.io"],
        "resources": ["leases"],
        "resourceNames": ["touchmark-ca"],
        "verbs": ["get", "patch"],
    },
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
    {
        "apiGroups": ["admissionregistration.k8s.io"],
        "resources": ["mutatingwebhookconfigurations"],
        "resourceNames": ["touchmark"],
        "verbs": ["list", "watch", "patch"],
    },
]


def read_configuration(url: str) -> dict[str, Any]:
    """The manifest's MutatingWebhookConfiguration, with URLs in place of the Service, which nothing here routes."""
    text = (ROOT / "manifests/base/webhook.yaml").read_text(encoding="utf-8")
    configuration: dict[str, Any] = yaml.safe_load(text)
    for webhook in configuration["webhooks"]:
        service = webhook["clientConfig"].pop("service")
        webhook["clientConfig"]["url"] = f"{url}{service['path']}"
    return configuration


def make_owner(api_server: ApiServer) -> None:
    """Make the ClusterRole that owns the ConfigMaps; where an installation has it already, it stays as it is."""
    if api_server.kubectl.run("get", "clusterrole", CLUSTER_ROLE).returncode != 0:
        role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "rules": []}
        api_server.kubectl.apply({**role, "metadata": {"name": CLUSTER_ROLE}})


class WebhookCA:
    """The CA's process, its webhook's port and its admin socket."""

    def __init__(
        self, api_server: ApiServer, directory: Path, *options: str, port: int | None = None, token: str = ""
    ) -> None:
        """``port``: of the webhook. ``token``: that it wants to be shown."""
        self.api_server = api_server
        self.token = token
        self.options = options
        self.directory = directory
        self.port = port or free_port()
        self.kubeconfig = api_server.service_account_kubeconfig("default", ACCOUNT)
        self._program: Program | None = None
        self._grant()

    @property
    def url(self) -> str:
        """Where the API server reaches the webhook."""
        return f"https://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until the API server knows its roots."""
        self.api_server.create_namespace("touchmark-system")
        self.api_server.kubectl.apply(read_configuration(self.url))
        environment = [f"KUBECONFIG={self.kubeconfig}", f"PYTHONPATH={ROOT}", f"TOUCHMARK_WEBHOOK_TOKEN={self.token}"]
        command = [sys.executable, "-m", "ca", "--kubernetes", "--sidecar-image", IMAGE]
        command += ["--listen", f"127.0.0.1:{free_port()}", "--webhook-listen", f"127.0.0.1:{self.port}"]
        command += ["--data-dir", str(self.directory / "data"), "--kek-file", str(self.directory / "kek")]
        command += ["--admin-socket", str(self.directory / "admin.sock"), *self.options]
        self._program = Program(
            ["env", *environment, *command], log=self.directory / "ca.log", directory=self.directory
        )
        self._program.wait_until(self.is_known, timeout_s=240.0)

    def stop(self) -> None:
        """Stop it; the API server keeps asking."""
        program, self._program = self._program, None
        if program is not None:
            program.stop()

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._program is not None
        return self._program.pid

    def is_known(self) -> bool:
        """Whether every webhook has the same caBundle, and someone serves."""
        bundles = self.read_bundles()
        return len(set(bundles)) == 1 and bool(bundles[0]) and _answers(self.port)

    def read_bundles(self) -> list[str]:
        """The caBundle of each webhook."""
        found = self.api_server.kubectl.get("mutatingwebhookconfiguration", "touchmark")
        return [webhook["clientConfig"].get("caBundle", "") for webhook in found["webhooks"]]

    def read_log(self) -> list[dict[str, Any]]:
        """The CA's events."""
        lines = (self.directory / "ca.log").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def _grant(self) -> None:
        name = "webhook-ca"
        role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole"}
        binding = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding"}
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}
        make_owner(self.api_server)
        subjects = [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": "default"}]
        self.api_server.kubectl.apply(
            {**role, "metadata": {"name": name}, "rules": RULES},
            {**binding, "metadata": {"name": name}, "roleRef": reference, "subjects": subjects},
        )

    def __enter__(self) -> WebhookCA:
        self.start()
        return self

    def __exit__(self, *details: object) -> None:
        self.stop()
        # Whoever comes next has no webhook that nobody answers.
        self.api_server.kubectl("delete", "mutatingwebhookconfiguration", "touchmark", "--ignore-not-found")


def touchmark(ca: WebhookCA, *arguments: str) -> str:
    """What the command prints, given that CA's admin socket."""
    import subprocess

    return subprocess.run(
        [sys.executable, "-m", "cli", *arguments, "--admin-socket", str(ca.directory / "admin.sock")],
        check=True, capture_output=True, text=True, timeout=300, cwd=ROOT, env={**os.environ, "NO_COLOR": "1"},
    ).stdout  # fmt: skip


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return True
    except OSError:
        return False


__all__ = ["IMAGE", "WebhookCA", "make_owner", "read_configuration", "touchmark", "wait_until"]
