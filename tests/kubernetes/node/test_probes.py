"""The kubelet's probes and hooks on a real node, in an explicit namespace that nobody has approved anything for yet.

The kubelet asks from outside the mesh, where explicit mode lets nobody in, so that each of them goes through the
sidecar, or stays where the kubelet needs no network of the pod.
"""

from __future__ import annotations

import json
import shlex
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from shared.model.kubernetes.contract import INJECT
from tests.kubernetes.harness import pki
from tests.kubernetes.node.market import PATIENT
from tests.kubernetes.node.mesh import Mesh, eventually

# An HTTP server, the same behind TLS with a certificate of its own making, and gRPC's health service. It prints what it
# is asked, and says so of itself over loopback, which isn't captured.
SERVER = """
import http.server, json, os, ssl, threading, time
from concurrent import futures
import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

healths, lock, changed, asked = health.HealthServicer(), threading.Lock(), threading.Condition(), []

def note(kind, path="", headers={}):
    entry = {"kind": kind, "path": path, "host": headers.get("Host", ""), "probe": headers.get("X-Probe", ""),
             "agent": headers.get("User-Agent", ""), "time": time.monotonic()}
    with lock:  # Before anyone goes on for it: /stop's answer lets the kubelet end this program.
        print(json.dumps(entry), flush=True)
    with changed:
        asked.append(entry)
        changed.notify_all()

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        note(self.server.kind, self.path, self.headers)
        status = 200
        if self.path.startswith("/start"):  # Fails twice, as a program that takes its time does.
            status = 200 if sum(each["path"].startswith("/start") for each in asked) > 2 else 503
        elif self.path.startswith("/moved"):
            status = 302
        elif self.path.startswith("/set/"):
            healths.set("shop.Api", getattr(health_pb2.HealthCheckResponse, self.path.removeprefix("/set/")))
        elif self.path == "/stop":  # Doesn't end before the others have: what they say is heard.
            with changed:
                changed.wait_for(lambda: {"/second-stops", "/third-ends"} <= {each["path"] for each in asked}, 20)
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/live")
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *_): pass

class Noting(grpc.ServerInterceptor):
    def intercept_service(self, go_on, call):
        note("grpc", call.method, {"User-Agent": dict(call.invocation_metadata).get("user-agent", "")})
        return go_on(call)

def serve(port, kind, context=None):
    server = http.server.ThreadingHTTPServer(("0.0.0.0", port), Handler)
    server.kind = kind
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()

with open("/tmp/server.pem", "w") as file:
    file.write(os.environ["PEM"])
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/tmp/server.pem")
api = grpc.server(futures.ThreadPoolExecutor(4), interceptors=[Noting()])
health_pb2_grpc.add_HealthServicer_to_server(healths, api)
healths.set("", health_pb2.HealthCheckResponse.SERVING)
healths.set("shop.Api", health_pb2.HealthCheckResponse.SERVING)
api.add_insecure_port("0.0.0.0:9000")
api.start()
serve(8443, "https", context)
serve(8080, "http")
threading.Event().wait()
"""
TELL = "import sys, urllib.request as u; u.urlopen('http://127.0.0.1:8080' + sys.argv[1], timeout=8)"
WAIT_FOR_SERVER = """
import socket, time
while True:
    try:
        socket.create_connection(("127.0.0.1", 8080), 1).close()
        break
    except OSError:
        time.sleep(0.2)
"""
# Says so when it is told to end, and ends.
TELL_THE_END = f"""
import signal, sys
def end(*_):
    sys.argv[1:] = ["/third-ends"]
    exec({TELL!r})
    sys.exit()
signal.signal(signal.SIGTERM, end)
while True:
    signal.pause()
"""
FOREIGN = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        print(self.path, self.headers["User-Agent"], flush=True)
        self.send_response(200); self.send_header("Content-Length", "0"); self.end_headers()
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def foreign(mesh: Mesh, make_namespace: Callable[..., str]) -> tuple[str, str]:
    """A pod outside the mesh, with its address."""
    namespace = make_namespace()
    mesh.run_pod(namespace, "foreign", "python", command=["python3", "-c", FOREIGN])
    return namespace, str(mesh.kubectl.get("pod", "-n", namespace, "foreign")["status"]["podIP"])


@pytest.fixture(scope="module")
def probed(mesh: Mesh, make_namespace: Callable[..., str], foreign: tuple[str, str]) -> str:
    """An explicit namespace with the pod ``probed``: a server and two containers that ask it, and a foreign one."""
    namespace = make_namespace(labels={INJECT: "true"})
    mesh.be_explicit(namespace)
    spec = {"containers": containers(mesh, foreign[1]), "terminationGracePeriodSeconds": 30}
    mesh.run_pod(namespace, "probed", "grpc", spec=spec, wait=False)
    return namespace


@pytest.fixture(scope="module")
def ready(mesh: Mesh, probed: str) -> str:
    """The same namespace, once its program is approved and the pod is ready."""
    eventually(lambda: withheld(mesh, probed), "the refusal")
    mesh.approve_what_was_seen(f"{probed}/default")
    mesh.cluster.wait_for("condition=Ready", "pod/probed", namespace=probed)
    return probed


def containers(mesh: Mesh, foreign: str) -> list[dict[str, Any]]:
    own = pki.ClusterCA().own
    common = {"image": mesh.cluster.image("grpc"), "imagePullPolicy": "Never"}
    headers = [{"name": "Host", "value": "shop.example"}, {"name": "X-Probe", "value": "yes"}]
    server = {
        "name": "app",
        "command": ["python3", "-c", SERVER],
        "env": [{"name": "PEM", "value": (own.certificate + own.key).decode()}],
        "ports": [{"name": "web", "containerPort": 8080}, {"name": "tls", "containerPort": 8443}],
        "startupProbe": {
            "httpGet": {"path": "/start?a=1&b=2", "port": "web", "httpHeaders": headers},
            **PATIENT,
            "failureThreshold": 90,
        },
        "livenessProbe": {"httpGet": {"path": "/moved", "port": "tls", "scheme": "HTTPS"}, **PATIENT},
        "readinessProbe": {"grpc": {"port": 9000, "service": "shop.Api"}, **PATIENT, "failureThreshold": 1},
        "lifecycle": {
            "postStart": {"exec": {"command": ["python3", "-c", WAIT_FOR_SERVER]}},
            "preStop": {"httpGet": {"path": "/stop", "port": "web"}},
        },
    }
    second = {
        "name": "second",
        "command": ["sh", "-c", "touch /tmp/ready; exec sleep 3600"],
        "ports": [{"name": "shared", "containerPort": 8080}],
        "startupProbe": {"tcpSocket": {"port": "shared"}, **PATIENT, "failureThreshold": 90},
        "livenessProbe": {"grpc": {"port": 9000}, **PATIENT},
        "readinessProbe": {"exec": {"command": ["test", "-e", "/tmp/ready"]}, **PATIENT},
        "lifecycle": {
            "postStart": {"httpGet": {"path": "/second-started", "port": "shared"}},
            "preStop": {"exec": {"command": ["python3", "-c", TELL, "/second-stops"]}},
        },
    }
    third = {
        "name": "third",
        "command": ["python3", "-c", TELL_THE_END],
        "livenessProbe": {"tcpSocket": {"host": foreign, "port": 8080}, **PATIENT},
        "readinessProbe": {"httpGet": {"host": foreign, "port": 8080, "path": "/probe"}, **PATIENT},
        "lifecycle": {
            "postStart": {"httpGet": {"host": foreign, "port": 8080, "path": "/hook"}},
            "preStop": {"sleep": {"seconds": 3}},
        },
    }
    return [common | each for each in (server, second, third)]


def asked(mesh: Mesh, namespace: str) -> list[dict[str, Any]]:
    """What the server was asked, oldest first."""
    return [json.loads(line) for line in mesh.cluster.logs(namespace, "probed", container="app").splitlines()]


def tell(mesh: Mesh, namespace: str, path: str) -> None:
    mesh.cluster.execute(namespace, "probed", "python3", "-c", TELL, path, container="app")


def withheld(mesh: Mesh, namespace: str) -> list[dict[str, Any]]:
    return [r for r in mesh.decisions("--denied", "--namespace", namespace) if r["reason"] == "listener_not_approved"]


def states(mesh: Mesh, namespace: str) -> dict[str, dict[str, Any]]:
    statuses = mesh.kubectl.get("pod", "-n", namespace, "probed")["status"].get("containerStatuses", ())
    return {status["name"]: status for status in statuses}


def test_readiness_waits_for_the_approval_of_the_program_that_is_probed(mesh: Mesh, probed: str) -> None:
    """Nobody may reach the server, and the decisions name the command that changes it."""
    [record] = eventually(lambda: withheld(mesh, probed), "the refusal")
    assert record["destination"]["workload"] == f"{probed}/default"
    assert record["port"] == 9000
    eventually(
        lambda: (
            all(each["started"] for each in states(mesh, probed).values()) and states(mesh, probed)["third"]["ready"]
        ),
        "every container's start",
    )
    assert not states(mesh, probed)["app"]["ready"]
    said = mesh.run("decisions", "--denied", "--namespace", probed).stderr
    [command] = [line.partition("  # ")[0] for line in said.splitlines() if line.startswith("  touchmark")]
    words = shlex.split(command)
    assert words[:4] == ["touchmark", "program", "approve", f"{probed}/default"] and words[-1] == "-k"
    mesh.touchmark(*words[1:-1])
    mesh.cluster.wait_for("condition=Ready", "pod/probed", namespace=probed)
    assert mesh.run("mode", probed, "explicit", "--check").returncode == 0  # The approval has settled it.


def test_probes_of_every_kind_reach_the_application_as_the_kubelets_would(mesh: Mesh, ready: str) -> None:
    entries = asked(mesh, ready)
    starts = [number for number, entry in enumerate(entries) if entry["path"].startswith("/start")]
    assert len(starts) >= 3
    assert {entries[number]["path"] for number in starts} == {"/start?a=1&b=2"}
    assert {(entries[number]["host"], entries[number]["probe"]) for number in starts} == {("shop.example", "yes")}
    by_tls = [number for number, entry in enumerate(entries) if entry["kind"] == "https"]
    assert by_tls[0] > starts[2]  # Nothing else is asked before the start.
    assert {entries[number]["path"] for number in by_tls} == {"/moved", "/live"}
    assert {entry["path"] for entry in entries if entry["kind"] == "grpc"} == {"/grpc.health.v1.Health/Check"}
    assert "/second-started" in {entry["path"] for entry in entries}
    agents = {entry["agent"] for entry in entries}
    assert all(agent.startswith("kube-probe/touchmark-") for agent in agents), agents
    assert {name: state["restartCount"] for name, state in states(mesh, ready).items()} == {
        "app": 0, "second": 0, "third": 0,
    }  # fmt: skip


def test_a_service_that_says_by_grpc_that_it_does_not_serve_is_not_ready(mesh: Mesh, ready: str) -> None:
    tell(mesh, ready, "/set/NOT_SERVING")
    eventually(lambda: not states(mesh, ready)["app"]["ready"], "the pod's unreadiness")
    tell(mesh, ready, "/set/SERVING")
    eventually(lambda: states(mesh, ready)["app"]["ready"], "the pod's readiness")


def test_what_names_another_host_is_asked_by_the_kubelet_itself(
    mesh: Mesh, ready: str, foreign: tuple[str, str]
) -> None:
    namespace, address = foreign
    [third] = [c for c in mesh.kubectl.get("pod", "-n", ready, "probed")["spec"]["containers"] if c["name"] == "third"]
    assert third["readinessProbe"]["httpGet"] == {"host": address, "path": "/probe", "port": 8080, "scheme": "HTTP"}
    assert third["livenessProbe"]["tcpSocket"] == {"host": address, "port": 8080}
    lines = [line.split() for line in mesh.cluster.logs(namespace, "foreign", container="app").splitlines()]
    assert {path for path, _ in lines} == {"/probe", "/hook"}
    assert all(agent.startswith("kube-") and "touchmark" not in agent for _, agent in lines), lines


def test_hooks_of_every_kind_run_before_the_end(mesh: Mesh, ready: str) -> None:
    """By HTTP through the sidecar, which outlives the application; by exec and sleep inside the container."""
    printed: list[str] = []

    def follow() -> None:
        arguments = ["logs", "-n", ready, "probed", "-c", "app", "--follow"]
        printed.append(mesh.kubectl(*arguments, timeout_s=120))

    following = threading.Thread(target=follow)
    following.start()
    tell(mesh, ready, "/ending")
    began = time.monotonic()
    mesh.kubectl("delete", "pod", "-n", ready, "probed", timeout_s=60)
    assert time.monotonic() - began >= 3  # The third container slept first.
    following.join(timeout=60)
    entries = {entry["path"]: entry for entry in map(json.loads, printed[0].splitlines())}
    assert entries["/stop"]["agent"].startswith("kube-probe/touchmark-")
    assert entries["/third-ends"]["time"] - entries["/ending"]["time"] >= 3
    assert "/second-stops" in entries
