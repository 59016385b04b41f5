"""Services of every kind from inside the mesh: which endpoint a connection gets, and how it gets there.

First in permissive mode, then the same pods in explicit mode, in the order of the file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from shared.model.kubernetes.contract import INJECT
from tests.kubernetes.harness.kubectl import KubectlError
from tests.kubernetes.node.market import PATIENT
from tests.kubernetes.node.mesh import Mesh, eventually

# Says its pod's name; `/onward` is asked of the Service, by this program itself.
NGINX = (
    "pid /tmp/nginx.pid; error_log /dev/stderr; events {} "
    "http { access_log off; server { listen 8080; listen [::]:8080; location / { return 200 $hostname; } "
    "location /onward { proxy_pass http://web/; } } }"
)
WEB = ("web-a", "web-b")
PLAIN = "plain"
# Prints how each request ended: the body, or curl's exit code.
ASK = 'for i in $(seq "$1"); do curl -gsS --max-time 8 "$2" || printf "failed $?"; echo; done'
# A refusal can be faster than curl, which then says that it couldn't connect.
REFUSED = ("failed 7", "failed 52", "failed 55", "failed 56")
FETCH = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=8).read().decode())"
ONWARD = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8080/onward', timeout=8).read().decode())"
RULES = """\
apiVersion: touchmark.dev/v1alpha1
kind: MeshPolicy
metadata: {{name: default, namespace: {namespace}}}
spec:
  rules:
  - name: not-in-the-mesh-yet
    action: allow
    direction: egress
    workloads: [client]
    peers: [{{unidentified: true, cidrs: ["{address}/32"]}}]
    ports: [8080]
"""


@pytest.fixture(scope="module")
def mall(mesh: Mesh, make_namespace: Callable[..., str]) -> str:
    """Two servers and a client in the mesh, a server outside it, and Services over them."""
    namespace = make_namespace(labels={INJECT: "true"})
    for account in ("web", "client"):
        mesh.cluster.create_service_account(namespace, account)
    port, named = {"port": 80, "targetPort": 8080}, {"port": 80, "targetPort": "http"}
    mesh.kubectl.apply(
        service("web", {"tier": "meshed"}, named, type="NodePort"),
        service("mixed", {"mixed": "yes"}, port),
        service("sticky", {"tier": "meshed"}, port, sessionAffinity="ClientIP"),
        service("headless", {"app": "web-a"}, {"port": 8080}, clusterIP="None"),
        service("empty", {"app": "nobody"}, port),
        service("dual", {"tier": "meshed"}, port, ipFamilyPolicy="PreferDualStack"),
        namespace=namespace,
    )
    mesh.kubectl.apply(*(server(mesh, name) for name in (*WEB, PLAIN)), namespace=namespace)
    mesh.run_pod(namespace, "client", "tools", service_account="client", wait=False)
    for name in (*WEB, PLAIN, "client"):
        mesh.cluster.wait_for("condition=Ready", f"pod/{name}", namespace=namespace)
    return namespace


@pytest.fixture(scope="module")
def explicit(mesh: Mesh, mall: str) -> str:
    """The same in explicit mode, with what was seen approved."""
    assert set(ask(mesh, mall, "http://web/", times=4)) <= set(WEB)
    ask_onward(mesh, mall)
    mesh.approve_what_was_seen(f"{mall}/web", f"{mall}/client")
    mesh.be_explicit(mall)
    return mall


def service(name: str, selector: dict[str, str], port: dict[str, Any], **spec: object) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": selector, "ports": [port], **spec},
    }


def server(mesh: Mesh, name: str) -> dict[str, Any]:
    """A web server; the one outside the mesh says so by its annotation."""
    container = {
        "name": "app",
        "image": mesh.cluster.image("nginx"),
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", f"echo '{NGINX}' >/tmp/nginx.conf; exec nginx -c /tmp/nginx.conf -g 'daemon off;'"],
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, **PATIENT},
    }
    labels = {"app": name, "tier": "plain" if name == PLAIN else "meshed", "mixed": "no" if name == "web-b" else "yes"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels, "annotations": {INJECT: "false"} if name == PLAIN else {}},
        "spec": {
            "serviceAccountName": "web",
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 2,
            "containers": [container],
        },
    }


def ask(mesh: Mesh, namespace: str, url: str, *, times: int = 1) -> list[str]:
    """How the client's requests end: the answering pod's name, or ``failed`` with curl's code."""
    said = mesh.cluster.execute(namespace, "client", "sh", "-c", ASK, "ask", str(times), url, container="app")
    return said.split("\n")[:-1]


def ask_onward(mesh: Mesh, namespace: str) -> str:
    """Which pod answers when web-a's own program asks its Service."""
    return mesh.cluster.execute(namespace, "web-a", "python3", "-c", ONWARD, container="app").strip()


def ask_onward_until(mesh: Mesh, namespace: str, name: str) -> None:
    eventually(lambda: ask_onward(mesh, namespace) == name, f"an answer of {name}", pause_s=0)


def ask_until(mesh: Mesh, namespace: str, url: str, wanted: Callable[[str], bool]) -> str:
    """Ask on until an answer is such: the choice among endpoints is random."""
    return str(
        eventually(lambda: next(filter(wanted, ask(mesh, namespace, url, times=4)), None), f"that answer of {url}")
    )


def status_of(mesh: Mesh, namespace: str, pod: str) -> dict[str, Any]:
    status: dict[str, Any] = mesh.kubectl.get("pod", "-n", namespace, pod)["status"]
    return status


def find_record(mesh: Mesh, namespace: str, what: Callable[[dict[str, Any]], bool], *arguments: str) -> dict[str, Any]:
    """The newest record that the client's or a server's sidecar left of such a connection."""
    found = eventually(lambda: list(filter(what, mesh.decisions("--namespace", namespace, *arguments))), "the record")
    record: dict[str, Any] = found[-1]
    return record


def find_both(mesh: Mesh, namespace: str, what: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """The records of such connections, once there are some from each side."""

    def find() -> list[dict[str, Any]]:
        found = list(filter(what, mesh.decisions("--namespace", namespace)))
        return found if {record["direction"] for record in found} == {"egress", "ingress"} else []

    return list(eventually(find, "records of both sides"))


def ipv6_urls(mesh: Mesh, namespace: str) -> tuple[str, str]:
    """The second address of web-a, and of the Service over both servers."""
    pod = status_of(mesh, namespace, "web-a")["podIPs"][1]["ip"]
    own = mesh.kubectl.get("service", "-n", namespace, "dual")["spec"]["clusterIPs"][1]
    return f"http://[{pod}]:8080/", f"http://[{own}]/"


def is_to(address: str, *, by: str = "") -> Callable[[dict[str, Any]], bool]:
    """Whether a record is the source's, of a connection to this address, by a Service of this name."""
    return lambda record: (
        record["destination"]["address"] == address and record["direction"] == "egress" and by in record["detail"]
    )


def test_a_pod_reaches_itself_and_its_sibling_by_its_own_service_and_named_port(mesh: Mesh, mall: str) -> None:
    for name in WEB:
        ask_onward_until(mesh, mall, name)
    own = status_of(mesh, mall, "web-a")["podIP"]
    record = find_record(
        mesh, mall, lambda r: is_to(f"{own}:8080")(r) and r["source"]["workload"] == f"{mall}/web"
    )  # fmt: skip
    assert record["transport"] == "tunnel"
    assert record["destination"]["workload"] == f"{mall}/web"
    assert record["detail"] == f"service {mall}/web"


def test_session_affinity_keeps_a_client_at_one_endpoint(mesh: Mesh, mall: str) -> None:
    answers = ask(mesh, mall, "http://sticky/", times=12)
    assert len(answers) == 12
    assert len(set(answers)) == 1 and answers[0] in WEB


def test_a_headless_service_and_a_pods_own_address_go_through_the_mesh(mesh: Mesh, mall: str) -> None:
    address = f"{status_of(mesh, mall, 'web-a')['podIP']}:8080"
    for url in ("http://headless:8080/", f"http://{address}/"):
        assert ask(mesh, mall, url) == ["web-a"]
    records = eventually(
        lambda: [
            r for r in mesh.decisions("--namespace", mall) if is_to(address)(r)
            and r["source"]["workload"] == f"{mall}/client" and "service" not in r["detail"]
        ],
        "the records",
    )  # fmt: skip
    assert {r["transport"] for r in records} == {"tunnel"}


def test_a_service_that_nobody_serves_is_refused_at_once_with_the_reason(mesh: Mesh, mall: str) -> None:
    [answer] = ask(mesh, mall, "http://empty/")
    assert answer in REFUSED  # Reset or closed, not timed out (28).
    record = find_record(mesh, mall, lambda r: "empty" in r["detail"], "--denied")
    assert record["reason"] == "destination_unreachable"
    assert record["detail"] == f"service {mall}/empty has no ready endpoint for port 80"


def test_a_node_port_is_an_address_outside_the_mesh(mesh: Mesh, mall: str) -> None:
    """Whoever takes the way over the node comes back as a stranger."""
    [port] = mesh.kubectl.get("service", "-n", mall, "web")["spec"]["ports"]
    node = f"{status_of(mesh, mall, 'client')['hostIP']}:{port['nodePort']}"
    assert set(ask(mesh, mall, f"http://{node}/")) <= set(WEB)
    record = find_record(mesh, mall, is_to(node))
    assert (record["transport"], record["would_deny"]) == ("plaintext", True)


def test_permissive_reaches_a_services_endpoints_inside_and_outside_the_mesh(mesh: Mesh, mall: str) -> None:
    for name, transport in (("web-a", "tunnel"), (PLAIN, "plaintext")):
        ask_until(mesh, mall, "http://mixed/", name.__eq__)
        record = find_record(mesh, mall, is_to(f"{status_of(mesh, mall, name)['podIP']}:8080", by="mixed"))
        assert record["transport"] == transport


@pytest.mark.usefixtures("own_node")
def test_permissive_carries_ipv6_through_the_mesh_as_ipv4(mesh: Mesh, mall: str) -> None:
    target, by_service = ipv6_urls(mesh, mall)
    assert ask(mesh, mall, target) == ["web-a"]
    assert set(ask(mesh, mall, by_service, times=2)) <= set(WEB)
    address = target.removeprefix("http://").removesuffix("/")
    for record in find_both(mesh, mall, lambda r: r["destination"]["address"] == address):
        assert record["transport"] == "tunnel"
        assert record["source"]["workload"] == f"{mall}/client"
    record = find_record(mesh, mall, lambda r: r["detail"] == f"service {mall}/dual")
    assert record["destination"]["address"].startswith("[") and record["destination"]["address"].endswith("]:8080")
    assert record["transport"] == "tunnel"
    assert mesh.cluster.execute(mall, PLAIN, "python3", "-c", FETCH, target).strip() == "web-a"
    record = find_record(mesh, mall, lambda r: r["destination"]["address"] == address and not r["source"]["workload"])
    assert (record["direction"], record["reason"]) == ("ingress", "peer_unidentified")
    assert (record["transport"], record["would_deny"]) == ("plaintext", True)


def test_explicit_serves_by_service_and_hairpin_as_before(mesh: Mesh, explicit: str) -> None:
    answers = ask(mesh, explicit, "http://web/", times=4)
    assert len(answers) == 4 and set(answers) <= set(WEB)
    ask_onward_until(mesh, explicit, "web-a")


@pytest.mark.usefixtures("own_node")
def test_explicit_serves_and_refuses_by_ipv6_as_by_ipv4(mesh: Mesh, explicit: str) -> None:
    target, by_service = ipv6_urls(mesh, explicit)
    assert ask(mesh, explicit, target) == ["web-a"]
    assert set(ask(mesh, explicit, by_service, times=2)) <= set(WEB)
    with pytest.raises(KubectlError):
        mesh.cluster.execute(explicit, PLAIN, "python3", "-c", FETCH, target)
    address = target.removeprefix("http://").removesuffix("/")
    record = find_record(mesh, explicit, lambda r: r["destination"]["address"] == address, "--denied")
    assert (record["direction"], record["reason"]) == ("ingress", "peer_unidentified")
    with pytest.raises(KubectlError):
        intrude = "cp $(command -v curl) /tmp/other; printf x >>/tmp/other; exec /tmp/other -sS -g --max-time 8 $0"
        mesh.cluster.execute(explicit, "client", "sh", "-c", intrude, target, container="app")
    record = find_record(mesh, explicit, lambda r: r["process"]["path"] == "/tmp/other", "--denied")
    assert (record["destination"]["address"], record["reason"]) == (address, "program_not_approved")


def test_explicit_refuses_a_services_endpoint_outside_the_mesh_by_name_until_a_rule_lets_it(
    mesh: Mesh, explicit: str
) -> None:
    """Nothing is passed over silently: a Service with such an endpoint fails now and then, and says why."""
    address = status_of(mesh, explicit, PLAIN)["podIP"]
    ask_until(mesh, explicit, "http://mixed/", "web-a".__eq__)
    ask_until(mesh, explicit, "http://mixed/", lambda answer: answer.startswith("failed"))
    record = find_record(mesh, explicit, is_to(f"{address}:8080"), "--denied")
    assert record["reason"] == "egress_not_allowed"
    assert record["detail"] == f"service {explicit}/mixed"
    rules = mesh.write("egress.yaml", RULES.format(namespace=explicit, address=address))
    mesh.touchmark("policy", "apply", "-f", str(rules))
    ask_until(mesh, explicit, "http://mixed/", PLAIN.__eq__)
    rule = f"{explicit}/not-in-the-mesh-yet"
    record = find_record(mesh, explicit, lambda r: is_to(f"{address}:8080")(r) and r["rule"] == rule)
    assert (record["answer"], record["mode"], record["transport"]) == ("allow", "explicit", "plaintext")


def test_explicit_refuses_the_way_over_the_node(mesh: Mesh, explicit: str) -> None:
    [port] = mesh.kubectl.get("service", "-n", explicit, "web")["spec"]["ports"]
    node = f"{status_of(mesh, explicit, 'client')['hostIP']}:{port['nodePort']}"
    [answer] = ask(mesh, explicit, f"http://{node}/")
    assert answer in REFUSED
    record = find_record(mesh, explicit, is_to(node), "--denied")
    assert record["reason"] == "egress_not_allowed"
