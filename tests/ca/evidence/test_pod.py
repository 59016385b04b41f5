"""Only a pod as injection makes it has a sidecar that may join; each deviation is named."""

from __future__ import annotations

from typing import Any

import pytest

from ca.evidence.pod import find_fault
from shared.model.kubernetes.contract import HOLDING_COMMAND
from tests.ca.kubernetes.making import CA_NAMES, IMAGE, changed, decode_pod, make_pod_json

SIDECAR = "spec.initContainers.1"
TOKEN_MOUNT = {"name": "touchmark-token", "mountPath": "/stolen"}


def look(pod: dict[str, Any]) -> str:
    return find_fault(decode_pod(pod), images=[IMAGE, "registry.test/new:2"], ca_names=CA_NAMES)


def test_what_injection_makes_may_join() -> None:
    assert look(make_pod_json()) == ""
    assert look(make_pod_json(image="registry.test/new:2")) == ""


def test_one_with_more_threads_may_join() -> None:
    assert look(changed(changed(make_pod_json(), f"{SIDECAR}.args.+", "--workers"), f"{SIDECAR}.args.+", "2")) == ""


def test_one_whose_connections_wait_may_join_by_the_one_other_entry_point_of_the_image() -> None:
    pod = changed(make_pod_json(), f"{SIDECAR}.command", list(HOLDING_COMMAND))
    assert look(changed(pod, f"{SIDECAR}.args.+", "--hold-connects")) == ""
    assert look(changed(changed(pod, f"{SIDECAR}.args.+", "--log-format"), f"{SIDECAR}.args.+", "ocsf")) == ""
    for when in ("always", "auto"):
        said = changed(changed(pod, f"{SIDECAR}.args.+", "--hold-connects"), f"{SIDECAR}.args.+", when)
        assert look(said) == ""
    assert "strange option: auto" in look(changed(pod, f"{SIDECAR}.args.+", "auto"))
    elsewhere = changed(changed(pod, f"{SIDECAR}.args.+", "--hold-connects"), f"{SIDECAR}.args.+", "other")
    assert "strange option: other" in look(elsewhere)
    assert "command" in look(changed(pod, f"{SIDECAR}.command", [HOLDING_COMMAND[0], "-c", "evil"]))


def test_containers_before_and_beside_it_may_be_anything_harmless() -> None:
    pod = changed(make_pod_json(), "spec.initContainers.+", {"name": "migrate", "image": "x", "command": ["sh"]})
    pod = changed(pod, "spec.containers.0.securityContext", {"runAsUser": 0, "capabilities": {"add": ["NET_RAW"]}})
    assert look(pod) == ""


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        ("spec.initContainers", None, "has no init container"),
        ("spec.hostNetwork", True, "node's network"),
        ("spec.hostPID", True, "node's network or sees its processes"),
        ("spec.shareProcessNamespace", False, "process namespace"),
        ("spec.hostAliases", [{"ip": "198.18.0.9", "hostnames": ["x", *CA_NAMES]}], "host alias"),
        (f"{SIDECAR}.image", "registry.test/other:1", "image that may not join"),
        (f"{SIDECAR}.restartPolicy", None, "restartPolicy"),
        (f"{SIDECAR}.securityContext.runAsUser", 0, "unprivileged user 1337"),
        (f"{SIDECAR}.securityContext", None, "unprivileged user 1337"),
        (f"{SIDECAR}.securityContext.privileged", True, "unprivileged user 1337"),
        (f"{SIDECAR}.command", ["sh", "-c", "cat token"], "command"),
        (f"{SIDECAR}.workingDir", "/var/run/touchmark/trust", "working directory"),
        (f"{SIDECAR}.lifecycle", {"postStart": {"exec": {"command": ["sh"]}}}, "hooks"),
        (f"{SIDECAR}.envFrom", [{"configMapRef": {"name": "x"}}], "further environment"),
        (f"{SIDECAR}.volumeDevices", [{"name": "x", "devicePath": "/dev/x"}], "further environment"),
        (f"{SIDECAR}.livenessProbe", {"exec": {"command": ["sh"]}}, "probe that executes"),
        (f"{SIDECAR}.env.+", {"name": "LD_PRELOAD", "value": "/x.so"}, "LD_PRELOAD"),
        (f"{SIDECAR}.volumeMounts.+", {"name": "code", "mountPath": "/app/sidecar"}, "strange mount: /app"),
        (f"{SIDECAR}.volumeMounts.0.name", "code", "strange mount: /var/run/touchmark/token"),
        (f"{SIDECAR}.volumeMounts.1.subPath", "x", "strange mount: /var/run/touchmark/trust"),
        (f"{SIDECAR}.args.+", "--config", "strange option: --config"),
        (f"{SIDECAR}.args.+", "--ca=evil.test:1", "strange option: --ca=evil"),
        (f"{SIDECAR}.args.4", "evil.test:15443", "another CA: evil.test"),
        (f"{SIDECAR}.args.3", "--ca=touchmark-ca.touchmark-system.svc:1", "strange option: touchmark-ca"),
        (f"{SIDECAR}.args", ["--ca", "touchmark-ca.touchmark-system.svc:1"], "whose --trust-file isn't"),
        (f"{SIDECAR}.args", [], "another CA: "),
        ("spec.volumes.2.configMap.name", "mine", "isn't the whole ConfigMap"),
        ("spec.volumes.2.configMap.items", [{"key": "x", "path": "roots.pem"}], "isn't the whole ConfigMap"),
        ("spec.volumes.1", {"name": "touchmark-token", "emptyDir": {}}, "touchmark-token: none"),
        (
            "spec.volumes.+",
            {"name": "second", "projected": {"sources": [{"serviceAccountToken": {"audience": "touchmark-ca"}}]}},
            "touchmark-token, second",
        ),
        ("spec.initContainers.0.name", "first", "doesn't begin with touchmark-capture"),
        ("spec.initContainers.0.image", "registry.test/other:1", "touchmark-capture of an image"),
        ("spec.initContainers.0.command", ["sh"], "touchmark-capture that has the capability NET_ADMIN"),
        ("spec.initContainers.0.args", ["-c", "evil"], "touchmark-capture that has the capability NET_ADMIN"),
        ("spec.initContainers.0.env", [{"name": "PYTHONPATH"}], "touchmark-capture that has the capability NET_ADMIN"),
        ("spec.containers.0.name", "touchmark-sidecar", "has the sidecar's name"),
        ("spec.containers.0.volumeMounts.+", TOKEN_MOUNT, "web that mounts the sidecar's token"),
        ("spec.containers.0.securityContext", {"privileged": True}, "web that is privileged"),
        ("spec.containers.0.securityContext", {"procMount": "Unmasked"}, "web that is privileged"),
        ("spec.containers.0.securityContext", {"capabilities": {"add": ["CAP_SYS_PTRACE"]}}, "capability SYS_PTRACE"),
        ("spec.containers.0.securityContext", {"runAsUser": 1337}, "web that runs as the sidecar's user"),
        ("spec.securityContext", {"runAsUser": 1337}, "web that runs as the sidecar's user"),
        (
            "spec.ephemeralContainers",
            [{"name": "debugger", "image": "x", "volumeMounts": [TOKEN_MOUNT]}],
            "debugger that mounts the sidecar's token",
        ),
    ],
)
def test_each_deviation_is_named(path: str, value: Any, fault: str) -> None:
    assert fault in look(changed(make_pod_json(), path, value))


def test_a_second_sidecar_is_no_sidecar() -> None:
    pod = make_pod_json()
    assert "doesn't begin with" in look(changed(pod, "spec.initContainers.+", pod["spec"]["initContainers"][1]))
