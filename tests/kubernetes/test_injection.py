"""Injection by a real API server: asked by annotation or label, refused with the reason, closed only for who asked."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from typing import Any, cast

import pytest
import yaml

from shared.model.kubernetes.contract import FORCE_EXPLICIT
from tests.kubernetes.harness.api_server import ApiServer
from tests.kubernetes.harness.kubectl import KubectlError
from tests.kubernetes.webhook_ca import IMAGE, ROOT, WebhookCA, touchmark, wait_until
from tests.shared.model.injection.golden_injection import FILES, PATH_SECRET
from tests.shared.model.injection.pods import Json, annotate, make_pod, make_pod_of
from tests.shared.model.policy.object_cases import policy


@pytest.fixture(scope="module")
def ca(api_server: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebhookCA]:
    with WebhookCA(api_server, tmp_path_factory.mktemp("ca")) as running:
        yield running


def create(server: ApiServer, pod: Json, namespace: str, *options: str) -> Json:
    """Create the pod under a fresh name, and return it as the API server has it."""
    metadata = {**pod["metadata"], "name": f"p-{uuid.uuid4().hex[:8]}", "namespace": namespace}
    answer = server.kubectl(
        "create", "-f", "-", "-o", "json", *options, stdin=json.dumps({**pod, "metadata": metadata})
    )
    created: Json = json.loads(answer)
    return created


def list_init_containers(pod: Json) -> list[str]:
    return [each["name"] for each in pod["spec"].get("initContainers", [])]


INJECTED = ["touchmark-capture", "touchmark-sidecar"]


def plain_pod() -> Json:
    """A pod that says nothing."""
    return {**make_pod(), "metadata": {}}


@pytest.mark.each_release
def test_a_pod_that_asks_gets_its_sidecar_and_its_namespace_the_roots(
    ca: WebhookCA, api_server: ApiServer, namespace: str
) -> None:
    pod = create(api_server, make_pod(), namespace)
    assert list_init_containers(pod) == INJECTED
    assert {each["image"] for each in pod["spec"]["initContainers"]} == {IMAGE}
    assert pod["spec"]["shareProcessNamespace"] is True
    found = api_server.kubectl.get("configmap", "touchmark-trust", "-n", namespace)
    assert found["data"]["roots.pem"].startswith("-----BEGIN CERTIFICATE-----")
    # So that it goes with the installation: garbage collection takes what the role of this UID owns.
    role = api_server.kubectl.get("clusterrole", "touchmark-ca")
    [owner] = found["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("ClusterRole", role["metadata"]["uid"])


def test_a_label_asks_for_a_whole_namespace_but_for_pods_that_say_no(ca: WebhookCA, api_server: ApiServer) -> None:
    namespace = f"labelled-{uuid.uuid4().hex[:8]}"
    api_server.create_namespace(namespace, labels={"touchmark.dev/inject": "true"})
    assert list_init_containers(create(api_server, plain_pod(), namespace)) == INJECTED
    assert list_init_containers(create(api_server, make_pod(), namespace)) == INJECTED
    no = {**make_pod(hostNetwork=True), "metadata": {"annotations": {"touchmark.dev/inject": "false"}}}
    assert list_init_containers(create(api_server, no, namespace)) == []


def test_a_namespaces_annotations_are_its_pods_defaults(ca: WebhookCA, api_server: ApiServer, namespace: str) -> None:
    annotations = ("touchmark.dev/drain-seconds=7", "touchmark.dev/sidecar-memory=70Mi", "touchmark.dev/log-level=loud")
    api_server.kubectl("annotate", "namespace", namespace, *annotations)
    pod = make_pod()

    def is_applied() -> bool:
        """The CA keeps what it read of a namespace for a second."""
        sidecar = create(api_server, pod, namespace)["spec"]["initContainers"][1]
        memory = sidecar["resources"]["requests"]["memory"]
        return (*sidecar["args"][-2:], memory) == ("--drain-seconds", "7", "70Mi")

    wait_until(is_applied, timeout_s=120.0)
    own = annotate(pod, drain_seconds="9")
    assert create(api_server, own, namespace)["spec"]["initContainers"][1]["args"][-2:] == ["--drain-seconds", "9"]


def test_who_did_not_ask_is_never_sent(ca: WebhookCA, api_server: ApiServer, namespace: str) -> None:
    before = len([event for event in ca.read_log() if event["event"].startswith("pod_")])
    assert list_init_containers(create(api_server, plain_pod(), namespace)) == []
    assert len([event for event in ca.read_log() if event["event"].startswith("pod_")]) == before


@pytest.mark.each_release
@pytest.mark.parametrize("namespace_of_cluster", ["kube-system", "touchmark-system"])
def test_the_clusters_and_our_own_namespace_are_never_asked_about(
    ca: WebhookCA, api_server: ApiServer, namespace_of_cluster: str
) -> None:
    api_server.create_namespace(namespace_of_cluster, labels={"touchmark.dev/inject": "true"})
    assert list_init_containers(create(api_server, make_pod(), namespace_of_cluster)) == []


def with_fixed_secret(pod: dict[str, Any]) -> dict[str, Any]:
    """Return the pod with the golden files' path secret in place of the one that was drawn for it."""
    text = json.dumps(pod)
    drawn = re.search(r"/probe/([0-9a-f]{32})/", text)
    return pod if drawn is None else cast("dict[str, Any]", json.loads(text.replace(drawn[1], PATH_SECRET)))


@pytest.mark.each_release
@pytest.mark.parametrize("case", ["plain", "probes", "annotations", "look_alike_repaired"])
def test_what_injection_makes_is_a_pod_that_the_api_server_takes(
    ca: WebhookCA, api_server: ApiServer, namespace: str, case: str
) -> None:
    pod = yaml.safe_load((FILES / f"{case}.in.yaml").read_text(encoding="utf-8"))
    expected = yaml.safe_load((FILES / f"{case}.out.yaml").read_text(encoding="utf-8"))
    created = with_fixed_secret(create(api_server, pod, namespace))
    assert list_init_containers(created) == list_init_containers(expected)
    for kind in ("initContainers", "containers"):
        for made, wanted in zip(created["spec"].get(kind, []), expected["spec"].get(kind, []), strict=True):
            assert made.get("livenessProbe", {}).get("httpGet") == wanted.get("livenessProbe", {}).get("httpGet")
            if made["name"] in INJECTED:
                assert made["securityContext"] == wanted["securityContext"]
                assert made.get("env") == wanted.get("env")


def test_injecting_what_is_injected_changes_nothing(ca: WebhookCA, api_server: ApiServer, namespace: str) -> None:
    """`kubectl debug --copy-to`, and `touchmark inject` before `kubectl apply`, send injected pods."""
    first = create(api_server, make_pod_of(livenessProbe={"httpGet": {"port": 80, "path": "/live"}}), namespace)
    again = {"apiVersion": "v1", "kind": "Pod", "metadata": {"annotations": first["metadata"]["annotations"]}}
    second = create(api_server, {**again, "spec": first["spec"]}, namespace)
    assert second["spec"] == first["spec"]
    event = [event for event in ca.read_log() if event["event"] == "pod_injected"][-1]
    assert (event["pod"], event["operations"]) == (second["metadata"]["name"], 0)


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        ({"hostNetwork": True}, "host_network"),
        ({"hostPID": True}, "host_pid"),
        ({"shareProcessNamespace": False}, "process_sharing_off"),
        ({"securityContext": {"runAsUser": 1337}}, "sidecar_uid"),
    ],
)
def test_a_refusal_is_what_the_user_reads(
    ca: WebhookCA, api_server: ApiServer, namespace: str, spec: Json, code: str
) -> None:
    with pytest.raises(KubectlError, match=rf"(?s)denied the request: {code}: spec\..*\(hint: ") as caught:
        create(api_server, make_pod(**spec), namespace)
    assert "Forbidden" in str(caught.value)
    assert api_server.kubectl.get("pods", "-n", namespace)["items"] == []


def test_a_misspelt_word_is_refused_and_not_passed_over(ca: WebhookCA, api_server: ApiServer, namespace: str) -> None:
    pod = {**make_pod(), "metadata": {"annotations": {"touchmark.dev/inject": "yes"}}}
    with pytest.raises(KubectlError, match="bad_annotation"):
        create(api_server, pod, namespace)


@pytest.mark.parametrize("level", ["baseline", "restricted"])
def test_a_namespace_whose_pod_security_forbids_it_is_told_what_to_do(
    ca: WebhookCA, api_server: ApiServer, level: str
) -> None:
    namespace = f"secure-{uuid.uuid4().hex[:8]}"
    api_server.create_namespace(namespace, labels={"pod-security.kubernetes.io/enforce": level})
    with pytest.raises(KubectlError, match=f"(?s)pod_security.*{level}.*kubectl label namespace"):
        create(api_server, make_pod(), namespace)


def test_a_dry_run_leaves_nothing(ca: WebhookCA, api_server: ApiServer, namespace: str) -> None:
    pod = create(api_server, make_pod(), namespace, "--dry-run=server")
    assert list_init_containers(pod) == INJECTED
    assert api_server.kubectl.run("get", "configmap", "touchmark-trust", "-n", namespace).returncode != 0


def test_annotations_reach_the_containers(ca: WebhookCA, api_server: ApiServer, namespace: str) -> None:
    pod = create(api_server, annotate(make_pod(), exclude_outbound_ports="53", sidecar_memory="0.125Gi"), namespace)
    capture, sidecar = pod["spec"]["initContainers"]
    assert capture["args"][2:] == ["--exclude-outbound-port", "53"]
    assert sidecar["resources"]["requests"]["memory"] == "128Mi"


def debug(server: ApiServer, pod: Json, **container: Any) -> None:
    """Put an ephemeral container into a pod, as `kubectl debug` does."""
    name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
    entry = {"name": f"d-{uuid.uuid4().hex[:8]}", "image": "registry.example/debug:1", **container}
    path = f"/api/v1/namespaces/{namespace}/pods/{name}/ephemeralcontainers"
    found = server.kubectl.get("pod", name, "-n", namespace)
    found["spec"]["ephemeralContainers"] = [*found["spec"].get("ephemeralContainers", []), entry]
    server.kubectl("replace", "--raw", path, "-f", "-", stdin=json.dumps(found))


@pytest.mark.each_release
def test_an_ephemeral_container_that_could_undo_the_sidecar_is_refused(
    ca: WebhookCA, api_server: ApiServer, namespace: str
) -> None:
    pod = create(api_server, make_pod(), namespace)
    debug(api_server, pod)
    for container, code in (
        ({"securityContext": {"capabilities": {"add": ["SYS_PTRACE"]}}}, "capability"),
        ({"securityContext": {"privileged": True}}, "privileged"),
        ({"securityContext": {"runAsUser": 1337}}, "sidecar_uid"),
        ({"volumeMounts": [{"name": "touchmark-token", "mountPath": "/t"}]}, "token"),
    ):
        with pytest.raises(KubectlError, match=code):
            debug(api_server, pod, **container)
    # Whatever the annotations say by now: the containers decide.
    api_server.kubectl("annotate", "pod", pod["metadata"]["name"], "-n", namespace, "touchmark.dev/inject=false",
                       "touchmark.dev/injected-", "--overwrite")  # fmt: skip
    with pytest.raises(KubectlError, match="privileged"):
        debug(api_server, pod, securityContext={"privileged": True})
    other = create(api_server, plain_pod(), namespace)
    debug(api_server, other, securityContext={"privileged": True})


def read_trust(server: ApiServer, namespace: str) -> tuple[Json, list[Json]] | None:
    """The ConfigMap's data and owners; None where there is none."""
    result = server.kubectl.run("get", "configmap", "touchmark-trust", "-n", namespace, "-o", "json")
    if result.returncode != 0:
        return None
    found: Json = json.loads(result.stdout)
    return found["data"], found["metadata"].get("ownerReferences", [])


def test_the_roots_come_back_when_somebody_edits_or_deletes_them(
    ca: WebhookCA, api_server: ApiServer, namespace: str
) -> None:
    create(api_server, make_pod(), namespace)
    roots = read_trust(api_server, namespace)
    assert roots is not None

    def edit(patch: str) -> None:
        api_server.kubectl("patch", "configmap", "touchmark-trust", "-n", namespace, "--type=merge", "-p", patch)

    for patch in (
        '{"data":{"roots.pem":"evil"}}',
        '{"data":{"extra.pem":"evil"}}',
        '{"data":{"roots.pem":"evil"},"immutable":true}',
        '{"metadata":{"ownerReferences":null}}',
    ):
        edit(patch)
        wait_until(lambda: read_trust(api_server, namespace) == roots, timeout_s=60)
    api_server.kubectl("delete", "configmap", "touchmark-trust", "-n", namespace)
    wait_until(lambda: read_trust(api_server, namespace) == roots, timeout_s=60)


def test_the_configuration_comes_back_when_somebody_overwrites_it(ca: WebhookCA, api_server: ApiServer) -> None:
    before = ca.read_bundles()
    patch = json.dumps([{"op": "replace", "path": "/webhooks/1/clientConfig/caBundle", "value": "bm9uZQ=="}])
    patched = api_server.kubectl.run("patch", "mutatingwebhookconfiguration", "touchmark", "--type=json", "-p", patch)
    if patched.returncode != 0:  # The API server reads the PEM itself: an empty one is the wrong one that it takes.
        patch = json.dumps([{"op": "remove", "path": "/webhooks/1/clientConfig/caBundle"}])
        api_server.kubectl("patch", "mutatingwebhookconfiguration", "touchmark", "--type=json", "-p", patch)
    wait_until(lambda: ca.read_bundles() == before, timeout_s=60)


def test_a_rotation_of_the_issuer_keeps_the_webhook_working(
    ca: WebhookCA, api_server: ApiServer, namespace: str
) -> None:
    """The certificate has another issuer; the API server knows the root, and nothing changes for it."""
    create(api_server, make_pod(), namespace)
    before, roots = ca.read_bundles(), read_trust(api_server, namespace)
    touchmark(ca, "ca", "rotate", "issuer", "--timeout", "120")
    authorities = json.loads(touchmark(ca, "ca", "status", "--json"))["authorities"]
    assert len(authorities) > 1
    for _ in range(3):
        assert list_init_containers(create(api_server, make_pod(), namespace)) == INJECTED
    assert (ca.read_bundles(), read_trust(api_server, namespace)) == (before, roots)


def test_it_is_closed_while_the_ca_is_away_for_those_who_asked_and_for_nobody_else(
    ca: WebhookCA, api_server: ApiServer, namespace: str
) -> None:
    labelled = f"labelled-{uuid.uuid4().hex[:8]}"
    api_server.create_namespace(labelled, labels={"touchmark.dev/inject": "true"})
    injected = create(api_server, make_pod(), namespace)
    ca.stop()
    try:
        assert list_init_containers(create(api_server, plain_pod(), namespace)) == []
        other = create(api_server, plain_pod(), namespace)
        debug(api_server, other, securityContext={"privileged": True})
        with pytest.raises(KubectlError, match=r"failed calling webhook.*pods\.inject\.touchmark\.dev"):
            create(api_server, make_pod(), namespace)
        with pytest.raises(KubectlError, match=r"failed calling webhook.*namespaces\.inject\.touchmark\.dev"):
            create(api_server, plain_pod(), labelled)
        with pytest.raises(KubectlError, match=r"failed calling webhook.*ephemeral\.inject\.touchmark\.dev"):
            debug(api_server, injected)
        name = injected["metadata"]["name"]
        api_server.kubectl("annotate", "pod", name, "-n", namespace, "example.com/note=1")
        api_server.kubectl("delete", "pod", name, "-n", namespace, "--force", "--grace-period=0")
    finally:
        ca.start()
    assert list_init_containers(create(api_server, make_pod(), namespace)) == INJECTED


@pytest.mark.each_release
def test_nobody_executes_anything_in_a_sidecar(ca: WebhookCA, api_server: ApiServer, namespace: str) -> None:
    api_server.kubectl("apply", "--server-side", "-f", str(ROOT / "manifests/base/sidecar-exec.yaml"))
    name = create(api_server, make_pod(), namespace)["metadata"]["name"]

    def execute(verb: str, container: str, *command: str) -> str:
        arguments = [verb, name, "-n", namespace, "-c", container, *command]
        return api_server.kubectl.run(*arguments).stderr

    try:
        wait_until(
            lambda: "identity of every program" in execute("exec", "touchmark-sidecar", "--", "id"), timeout_s=60
        )
        assert "identity of every program" in execute("attach", "touchmark-sidecar")
        assert "identity of every program" in execute("exec", "touchmark-capture", "--", "id")
        # There is no kubelet here: that is what the others hear.
        assert "identity of every program" not in execute("exec", "web", "--", "id")
    finally:
        api_server.kubectl("delete", "-f", str(ROOT / "manifests/base/sidecar-exec.yaml"))


@pytest.mark.each_release
def test_the_manifest_itself_is_taken_as_it_stands(api_server: ApiServer) -> None:
    api_server.kubectl("apply", "--server-side", "--dry-run=server", "--force-conflicts", "-f",
                       str(ROOT / "manifests/base/webhook.yaml"))  # fmt: skip


@pytest.mark.each_release
def test_a_policy_that_says_explicit_is_judged_by_the_webhook(
    ca: WebhookCA, api_server: ApiServer, namespace: str
) -> None:
    """The warning that a forced one gets tells that the API server asked; an installation's MeshPolicies all are."""
    api_server.install_definitions()
    document = policy({"mode": "explicit"})
    document["metadata"] = {"name": "default", "namespace": namespace, "annotations": {FORCE_EXPLICIT: "1"}}
    done = api_server.kubectl.run("apply", "-f", "-", stdin=json.dumps(document))
    api_server.kubectl("delete", "meshpolicies.touchmark.dev", "default", "-n", namespace)
    assert (done.returncode, f"{namespace} becomes explicit unjudged" in done.stderr) == (0, True), done.stderr
