"""A pod that passes for a CA's, on a node whose kubelet only forwards ports: to a Unix socket of the test. Does I/O.

The real API server asks that kubelet as it asks any: what the command speaks goes through it.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cli.fake_api import FakeAPI, running_api
from tests.kubernetes.harness.api_server import ApiServer

NAMESPACE = "touchmark-system"
POD = "ca-0"
_NODE = "forwarding"


@contextmanager
def running_ca_pod(server: ApiServer, directory: Path) -> Iterator[FakeAPI]:
    """Serve the kubelet, and have the pod ready; ``forward_to`` of what is yielded names the socket."""
    credential = server.ca.issue("kubelet", names=["127.0.0.1"])
    (directory / "kubelet.crt").write_bytes(credential.certificate)
    (directory / "kubelet.key").write_bytes(credential.key)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(directory / "kubelet.crt", directory / "kubelet.key")
    with running_api(directory, tls=tls) as kubelet:
        _make_node(server, kubelet.port)
        _make_pod(server)
        try:
            yield kubelet
        finally:
            server.kubectl("delete", "pod", POD, "-n", NAMESPACE, "--force", "--grace-period=0")
            server.kubectl("delete", "node", _NODE)


def _make_node(server: ApiServer, port: int) -> None:
    server.kubectl.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": _NODE}})
    status = {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
    }
    server.kubectl("patch", "node", _NODE, "--subresource=status", "-p", json.dumps({"status": status}))


def _make_pod(server: ApiServer) -> None:
    server.create_namespace(NAMESPACE)
    container = {
        "name": "ca",
        "image": "touchmark/ca:0.1.0",
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    security = {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}}
    labels = {"app.kubernetes.io/name": "touchmark-ca"}
    server.kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": POD, "namespace": NAMESPACE, "labels": labels},
            "spec": {"nodeName": _NODE, "securityContext": security, "containers": [container]},
        }
    )
    status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    patch = json.dumps({"status": status})
    server.kubectl("patch", "pod", POD, "-n", NAMESPACE, "--subresource=status", "-p", patch)
