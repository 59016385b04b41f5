"""A small explicit namespace in which requests flow all the time: what has to go on whatever else ends. Does I/O."""

from __future__ import annotations

from functools import partial
from typing import Any

from tests.kubernetes.node.mesh import Mesh, eventually

# A busy machine takes longer than the second that a probe is given by default.
PATIENT = {"periodSeconds": 1, "timeoutSeconds": 10}
# Ask ten times a second until they are stopped, and write down how each request ended.
ASK_ON = """
import sys, time, urllib.request as u
while True:
    try:
        print(u.urlopen(sys.argv[1], timeout=8).status, flush=True)
    except Exception as error:
        print("failed", repr(error), flush=True)
    time.sleep(0.1)
"""
# The same on one connection: one that breaks counts as a failure, too.
ASK_ON_ONE_CONNECTION = """
import http.client, sys, time, urllib.parse
host = urllib.parse.urlsplit(sys.argv[1]).hostname
while True:
    try:
        connection = http.client.HTTPConnection(host, timeout=8)
        connection.connect()
        connection.auto_open = False
        while True:
            connection.request("GET", "/")
            answer = connection.getresponse()
            answer.read()
            print(answer.status, flush=True)
            time.sleep(0.1)
    except Exception as error:
        print("failed", repr(error), flush=True)
        time.sleep(0.1)
"""
_NGINX = (
    "pid /tmp/nginx.pid; error_log /dev/stderr; events {} "
    "http { access_log off; keepalive_requests 1000000; server { listen 8080; location / { return 200 ok; } "
    "location /onward { proxy_pass http://web/; } } }"
)


class Market:
    """A web server and its clients in a namespace of their own; all approved, and explicit, once it is open."""

    def __init__(self, mesh: Mesh, namespace: str) -> None:
        self.mesh = mesh
        self.namespace = namespace

    def open(self, *clients: str) -> None:
        """Start the web server, and a client pod for each script of ``clients``: ``client-0``, ``client-1``, ….

        Their programs are approved as a reviewer would, and the namespace is switched to explicit.
        """
        mesh, namespace = self.mesh, self.namespace
        mesh.cluster.create_namespace(namespace, labels={"touchmark.dev/inject": "true"})
        for account in ("web", "client"):
            mesh.cluster.create_service_account(namespace, account)
        self.deploy("nginx")
        self.wait_until_deployed()
        for number, script in enumerate(clients):
            command = ["python3", "-c", script, "http://web/"]
            mesh.run_pod(namespace, f"client-{number}", "python", command=command, service_account="client", wait=False)
        for number in range(len(clients)):
            eventually(partial(self._is_served, number), f"an answer for client {number}")
        mesh.approve_what_was_seen(f"{namespace}/web", f"{namespace}/client")
        mesh.be_explicit(namespace)

    def close(self) -> None:
        """Delete all of it, without waiting."""
        self.mesh.kubectl("delete", "namespace", self.namespace, "--wait=false", "--ignore-not-found")

    def deploy(self, image: str, *, replicas: int = 1) -> None:
        """Bring the web server out, or change it."""
        # The Service first: nginx looks its name up at the start.
        self.mesh.kubectl.apply(self._make_service(), self._make_deployment(image, replicas))

    def wait_until_deployed(self) -> None:
        """Wait until the web server's pods are the newest ones, and ready."""
        self.mesh.cluster.wait_for_rollout("deployment/web", namespace=self.namespace, timeout_s=120)

    def requests(self, client: int = 0) -> list[str]:
        """How a client's requests have ended, oldest first."""
        return self.mesh.cluster.logs(self.namespace, f"client-{client}", container="app").split("\n")[:-1]

    def count_failed(self, client: int = 0) -> int:
        """How many of a client's requests have failed."""
        return sum(line.startswith("failed") for line in self.requests(client))

    def expect_no_failure_since(self, before: int, client: int = 0) -> None:
        """Fail with what the client and its sidecar say when more requests have failed than before."""
        failed = [line for line in self.requests(client) if line.startswith("failed")][before:]
        if failed:
            log = self.mesh.sidecar_log(self.namespace, f"client-{client}").splitlines()
            said = [line for line in log if '"ending":"finished"' not in line and '"phase":"end"' in line]
            raise AssertionError("\n".join([*failed, *said[-20:]]))

    def _is_served(self, client: int) -> bool:
        done = self.mesh.kubectl.run("logs", "-n", self.namespace, f"client-{client}", "-c", "app")
        return "200" in done.stdout.split()

    def _make_deployment(self, image: str, replicas: int) -> dict[str, Any]:
        labels = {"app": "web"}
        container = {
            "name": "nginx",
            "image": self.mesh.cluster.image(image),
            "imagePullPolicy": "Never",
            "command": ["sh", "-c", f"echo '{_NGINX}' >/tmp/n.conf; exec nginx -c /tmp/n.conf -g 'daemon off;'"],
            "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, **PATIENT},
            "lifecycle": {"preStop": {"exec": {"command": ["sleep", "2"]}}},
        }
        spec = {
            "serviceAccountName": "web",
            "terminationGracePeriodSeconds": 15,
            "automountServiceAccountToken": False,
            "containers": [container],
        }
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "web", "namespace": self.namespace},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": labels},
                "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
                "template": {"metadata": {"labels": labels}, "spec": spec},
            },
        }

    def _make_service(self) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web", "namespace": self.namespace},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
        }
