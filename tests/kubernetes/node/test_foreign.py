"""A foreign SPIFFE peer in the cluster: openssl in a pod without a sidecar, with certificates of a CA of its own."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shared.model.kubernetes.contract import INJECT, MTLS_DESTINATION_PORTS, MTLS_PORTS
from tests.kubernetes.node.mesh import Mesh, eventually
from tests.sidecar.partner import BILLING, DOMAIN, Partner

SERVED, DIALLED = 8443, 9443
OTHER = f"spiffe://{DOMAIN}/other"
PARTNER = Partner()
ECHO = f"""
import socketserver
class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line)
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
Server(("", {SERVED}), Echo).serve_forever()
"""
SERVE = (
    f"exec openssl s_server -accept {DIALLED} -tls1_3 -rev -Verify 4 -verify_return_error -CAfile /svid/mesh.pem"
    " -cert /svid/billing.pem -cert_chain /svid/billing.pem -key /svid/billing.key"
)
# Prints what comes back for one line; nothing when the connection is refused.
CALL = (
    f'(echo hello; sleep 3) | timeout 20 openssl s_client -connect "$1:{SERVED}" -tls1_3 -quiet -no_ign_eof'
    " -CAfile /svid/mesh.pem -verify_return_error"
    ' -cert "/svid/$2.pem" -cert_chain "/svid/$2.pem" -key "/svid/$2.key" 2>/dev/null || true'
)
DIAL = f"""
import socket, sys
try:
    connection = socket.create_connection((sys.argv[1], {DIALLED}), 30)
    connection.sendall(b"hello\\n")
    print(connection.recv(100).decode().strip())
except ConnectionResetError:
    print("reset")
"""
POLICY = """\
apiVersion: touchmark.dev/v1alpha1
kind: MeshPolicy
metadata: {{name: default, namespace: {namespace}}}
spec:
  rules:
  - name: partner-in
    action: allow
    workloads: [api]
    peers: [{{spiffeID: "{billing}"}}]
    ports: [8443]
  - name: partner-out
    action: allow
    direction: egress
    workloads: [api]
    peers: [{{spiffeID: "spiffe://{domain}/*"}}]
    ports: [9443]
"""


@pytest.fixture(scope="module")
def market(mesh: Mesh, make_namespace: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A program in the mesh whose ports are mTLS, and a partner outside it, whose domain is known."""
    namespace = make_namespace(labels={INJECT: "true"})
    mesh.cluster.create_service_account(namespace, "api")
    directory = tmp_path_factory.mktemp("partner")
    roots = directory / "roots.pem"
    roots.write_bytes(PARTNER.roots_pem)
    mesh.touchmark("trust", "add", DOMAIN, str(roots))
    files = {"mesh.pem": mesh.touchmark("trust", "export").encode()}
    for name, uri in (("billing", BILLING), ("other", OTHER)):
        chain, key = PARTNER.issue(uri).write(directory)
        files |= {f"{name}.pem": chain.read_bytes(), f"{name}.key": key.read_bytes()}
    data = {name: base64.b64encode(content).decode() for name, content in files.items()}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "svid", "namespace": namespace}, "data": data}
    mesh.kubectl.apply(secret)
    mesh.run_pod(
        namespace, "api", "tools", command=["python3", "-c", ECHO], service_account="api", wait=False,
        annotations={MTLS_PORTS: str(SERVED), MTLS_DESTINATION_PORTS: str(DIALLED)},
    )  # fmt: skip
    mesh.run_pod(
        namespace, "partner", "tools", command=["sh", "-c", SERVE], annotations={INJECT: "false"},
        container={"volumeMounts": [{"name": "svid", "mountPath": "/svid"}]},
        spec={"volumes": [{"name": "svid", "secret": {"secretName": "svid"}}]},
    )  # fmt: skip
    mesh.cluster.wait_for("condition=Ready", "pod/api", namespace=namespace)
    return namespace


def address_of(mesh: Mesh, namespace: str, pod: str) -> str:
    return str(mesh.kubectl.get("pod", "-n", namespace, pod)["status"]["podIP"])


def call(mesh: Mesh, namespace: str, name: str = "billing") -> str:
    """What the partner hears from the program."""
    address = address_of(mesh, namespace, "api")
    return mesh.cluster.execute(namespace, "partner", "sh", "-c", CALL, "call", address, name, container="app").strip()


def dial(mesh: Mesh, namespace: str) -> str:
    """What the program hears from the partner."""
    address = address_of(mesh, namespace, "partner")
    return mesh.cluster.execute(namespace, "api", "python3", "-c", DIAL, address, container="app").strip()


def find_record(mesh: Mesh, namespace: str, port: int, reason: str, *, answer: str = "allow") -> dict[str, Any]:
    """A record of this port with this reason and answer."""
    wanted = (port, reason, answer)

    def find() -> list[dict[str, Any]]:
        records = mesh.decisions("--namespace", namespace)
        return [each for each in records if (each["port"], each["reason"], each["answer"]) == wanted]

    record: dict[str, Any] = eventually(find, f"a record of port {port}: {answer} {reason}")[0]
    return record


def test_permissive_lets_foreign_peers_flow_by_mtls_and_marks_them(mesh: Mesh, market: str) -> None:
    assert eventually(lambda: call(mesh, market) == "hello", "the program's answer")
    record = find_record(mesh, market, SERVED, "foreign_not_allowed")
    assert (record["would_deny"], record["transport"]) == (True, "mtls")
    assert record["source"]["identity"] == BILLING
    assert eventually(lambda: dial(mesh, market) == "olleh", "the partner's answer")
    record = find_record(mesh, market, DIALLED, "program_not_approved")  # That it says first.
    assert (record["would_deny"], record["transport"]) == (True, "mtls")
    assert record["destination"]["identity"] == BILLING


def test_explicit_serves_and_dials_whom_a_rule_names_and_nobody_else(mesh: Mesh, market: str) -> None:
    mesh.approve_what_was_seen(f"{market}/api")
    path: Path = mesh.write("foreign.yaml", POLICY.format(namespace=market, billing=BILLING, domain=DOMAIN))
    mesh.touchmark("policy", "apply", "-f", str(path))
    mesh.be_explicit(market)
    assert eventually(lambda: call(mesh, market) == "hello", "the program's answer")
    record = find_record(mesh, market, SERVED, "allow_rule")
    assert (record["rule"], record["source"]["identity"]) == (f"{market}/partner-in", BILLING)
    assert eventually(lambda: dial(mesh, market) == "olleh", "the partner's answer")
    record = find_record(mesh, market, DIALLED, "allow_rule")
    assert (record["rule"], record["destination"]["identity"]) == (f"{market}/partner-out", BILLING)
    assert call(mesh, market, "other") == ""
    denied = find_record(mesh, market, SERVED, "foreign_not_allowed", answer="deny")
    assert (denied["source"]["identity"], denied["transport"]) == (OTHER, "mtls")


def test_plaintext_to_the_port_and_a_forgotten_domain_are_refused(mesh: Mesh, market: str) -> None:
    address = address_of(mesh, market, "api")
    said = mesh.cluster.execute(
        market, "partner", "sh", "-c", 'curl -s --max-time 30 "http://$1:8443/" || echo "failed $?"', "plain", address,
        container="app",
    )  # fmt: skip
    # curl is told of the reset while it connects, sends or receives, whichever comes after it.
    assert said.strip() in {"failed 7", "failed 55", "failed 56"}
    assert find_record(mesh, market, SERVED, "mtls_required", answer="deny")["transport"] == "mtls"
    mesh.touchmark("trust", "remove", DOMAIN)
    assert eventually(lambda: call(mesh, market) == "", "the refusal")
    assert DOMAIN in find_record(mesh, market, SERVED, "trust_domain_unknown", answer="deny")["detail"]
