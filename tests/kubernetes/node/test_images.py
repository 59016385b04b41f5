"""Our images as pods get them: who they run as, what they hold and what they leave out."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from shared.model.kubernetes.contract import HOLDING_COMMAND
from tests.kubernetes.harness.cluster import Cluster
from tests.kubernetes.harness.kubectl import KubectlError

# What a container says of itself; `which` also looks where a user's PATH doesn't.
_LOOK = """
import importlib.util, json, os, shutil, sys
path = os.environ["PATH"] + ":/usr/local/sbin:/usr/sbin:/sbin"
print(json.dumps({
    "uid": os.getuid(),
    "gid": os.getgid(),
    "code": sorted(os.listdir("/opt/touchmark")),
    "programs": [each for each in ("cc", "gcc", "make", "pip", "pip3", "nft") if shutil.which(each, path=path)],
    "modules": [each for each in sys.argv[1:] if importlib.util.find_spec(each)],
    "effective": next(line.split()[1] for line in open("/proc/self/status") if line.startswith("CapEff")),
    "writable": [each for each in ("/opt/touchmark", "/usr/local/bin", "/etc") if os.access(each, os.W_OK)],
}))
"""
_MODULES = ("pip", "setuptools", "ensurepip", "ca", "sidecar", "cli", "kubernetes", "sqlalchemy", "OpenSSL")
_TWO_CAPABILITIES = f"{1 << 2 | 1 << 19:016x}"  # CAP_DAC_READ_SEARCH and CAP_SYS_PTRACE, linux/capability.h.
_INTERPRETER = "/usr/local/bin/touchmark-python"


def pod(cluster: Cluster, image: str, name: str, **security: Any) -> dict[str, Any]:
    """A pod that waits, as the image's own user unless told otherwise."""
    container: dict[str, Any] = {"name": "it", "image": cluster.image(image), "imagePullPolicy": "Never"}
    container |= {"command": ["sleep", "infinity"], "securityContext": security}
    spec = {"terminationGracePeriodSeconds": 0, "containers": [container]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def start(cluster: Cluster, namespace: str, document: dict[str, Any]) -> None:
    cluster.kubectl.apply(document, namespace=namespace)
    cluster.wait_for("condition=Ready", f"pod/{document['metadata']['name']}", namespace=namespace)


def look(cluster: Cluster, namespace: str, name: str, *, python: str = "python3") -> Any:
    return json.loads(cluster.execute(namespace, name, python, "-c", _LOOK, *_MODULES))


def test_the_ca_runs_without_rights_and_without_what_it_does_not_need(node: Cluster, namespace: str) -> None:
    """`runAsNonRoot` is checked by the kubelet against the image's user."""
    start(node, namespace, pod(node, "ca", "ca", runAsNonRoot=True, capabilities={"drop": ["ALL"]}))
    assert look(node, namespace, "ca") == {
        "uid": 10001,
        "gid": 10001,
        "code": ["ca", "packages", "shared"],
        "programs": [],
        "modules": ["ca", "kubernetes", "sqlalchemy", "OpenSSL"],
        "effective": "0" * 16,
        "writable": [],
    }
    assert "--data-dir" in node.execute(namespace, "ca", "python3", "-m", "ca", "--help")


def test_the_sidecar_holds_two_capabilities_and_nothing_else(node: Cluster, namespace: str) -> None:
    """As injection sets it up: the file's capabilities are effective also where privileges can't be gained."""
    added = {"drop": ["ALL"], "add": ["SYS_PTRACE", "DAC_READ_SEARCH"]}
    security = {"runAsNonRoot": True, "allowPrivilegeEscalation": False, "capabilities": added}
    start(node, namespace, pod(node, "sidecar", "sidecar", **security))
    seen = look(node, namespace, "sidecar", python=_INTERPRETER)
    assert seen == {
        "uid": 1337,
        "gid": 1337,
        "code": ["packages", "shared", "sidecar"],
        "programs": ["nft"],
        "modules": ["sidecar", "OpenSSL"],
        "effective": _TWO_CAPABILITIES,
        "writable": [],
    }
    assert look(node, namespace, "sidecar")["effective"] == "0" * 16, "the plain interpreter has none"
    assert "--capture" in node.execute(namespace, "sidecar", _INTERPRETER, "-m", "sidecar", "--help")
    permissions = node.execute(namespace, "sidecar", "stat", "-c", "%a %u:%g", _INTERPRETER)
    assert permissions.strip() == "750 0:1337"
    look_at = f"import os; print(os.getxattr({HOLDING_COMMAND[0]!r}, 'security.capability').hex())"
    for_held_connections = node.execute(namespace, "sidecar", "python3", "-c", look_at).strip()
    assert for_held_connections == struct.pack("<5I", 0x02000001, 1 << 2 | 1 << 12 | 1 << 19, 0, 0, 0).hex()
    with pytest.raises(KubectlError, match="not permitted"):
        node.execute(namespace, "sidecar", HOLDING_COMMAND[0], "-c", "print()")


def test_the_sidecar_does_not_start_without_its_capabilities(node: Cluster, namespace: str) -> None:
    """Better so than a sidecar that attests nobody."""
    start(node, namespace, pod(node, "sidecar", "bare", capabilities={"drop": ["ALL"]}))
    with pytest.raises(KubectlError, match="not permitted"):
        node.execute(namespace, "bare", _INTERPRETER, "-c", "print()")


def test_the_capture_container_writes_rules_as_root_with_the_plain_interpreter(node: Cluster, namespace: str) -> None:
    security = {"runAsUser": 0, "runAsGroup": 0, "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}}
    start(node, namespace, pod(node, "sidecar", "capture", **security))
    assert "--capture" in node.execute(namespace, "capture", "python3", "-m", "sidecar", "--help")
    node.execute(namespace, "capture", "nft", "add", "table", "inet", "touchmark")
    assert "table inet touchmark" in node.execute(namespace, "capture", "nft", "list", "tables")


def test_the_sidecar_reads_programs_of_other_containers(node: Cluster, namespace: str) -> None:
    """In a shared process namespace: executable and descriptors of a process of root's in another container."""
    added = {"drop": ["ALL"], "add": ["SYS_PTRACE", "DAC_READ_SEARCH"]}
    document = pod(node, "sidecar", "shared", allowPrivilegeEscalation=False, capabilities=added)
    document["spec"]["shareProcessNamespace"] = True
    application = {
        "name": "app",
        "image": node.image("tools"),
        "imagePullPolicy": "Never",
        "command": ["sleep", "7777"],
    }
    document["spec"]["containers"].append(application)
    start(node, namespace, document)
    read = (
        "import os, hashlib\n"
        "pid = next(p for p in os.listdir('/proc') if p.isdigit()"
        " and open(f'/proc/{p}/cmdline').read().split('\\0')[:2] == ['sleep', '7777'])\n"
        "print(hashlib.sha256(open(f'/proc/{pid}/exe', 'rb').read()).hexdigest(), len(os.listdir(f'/proc/{pid}/fd')))"
    )
    digest, descriptors = node.execute(namespace, "shared", _INTERPRETER, "-c", read, container="it").split()
    own = node.execute(namespace, "shared", "sh", "-c", 'sha256sum "$(command -v sleep)"', container="app").split()[0]
    assert digest == own
    assert int(descriptors) >= 3
