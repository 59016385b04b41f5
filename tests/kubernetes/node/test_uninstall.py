"""Uninstalling as docs/how-to/kubernetes.md says removes all that installing and running have made."""

from __future__ import annotations

import json

import pytest

from shared.model.kubernetes.contract import INJECT, SIDECAR_CONTAINER, SYSTEM_NAMESPACE, TRUST_CONFIG_MAP
from tests.kubernetes.node.inventory import list_objects
from tests.kubernetes.node.mesh import Mesh, eventually

ASKS = {INJECT: "true"}


@pytest.fixture(scope="module")
def member(mesh: Mesh) -> str:
    """A pod in the mesh, with a policy and an approved program: in a namespace that was there before Touchmark."""
    api_version = "touchmark.dev/v1alpha1"
    metadata = {"name": "default", "namespace": "default"}
    spec = {"serviceAccount": "default", "digests": [f"sha256:{'ab' * 32}"]}
    mesh.run_pod("default", "member", "tools", command=["sleep", "3600"], annotations=ASKS)
    mesh.kubectl.apply(
        {"apiVersion": api_version, "kind": "MeshPolicy", "metadata": metadata, "spec": {"mode": "permissive"}},
        {"apiVersion": api_version, "kind": "Program", "metadata": {**metadata, "name": "some"}, "spec": spec},
    )
    return "member"


def test_what_is_installed_is_seen(mesh: Mesh, member: str) -> None:
    """Or the test below would find nothing left because it looks at nothing."""
    added = set(list_objects(mesh.kubectl)) - set(mesh.before)
    assert added >= {
        f"Namespace /{SYSTEM_NAMESPACE}",
        "CustomResourceDefinition.apiextensions.k8s.io /meshpolicies.touchmark.dev",
        "MutatingWebhookConfiguration.admissionregistration.k8s.io /touchmark",
        "ValidatingAdmissionPolicyBinding.admissionregistration.k8s.io /touchmark-sidecar-exec",
        "ValidatingAdmissionPolicyBinding.admissionregistration.k8s.io /touchmark-token-requests",
        "ClusterRole.rbac.authorization.k8s.io /touchmark-operator",
        f"Lease.coordination.k8s.io {SYSTEM_NAMESPACE}/touchmark-ca",
        f"Secret {SYSTEM_NAMESPACE}/touchmark-kek",
        f"PersistentVolumeClaim {SYSTEM_NAMESPACE}/touchmark-ca",
        f"ConfigMap default/{TRUST_CONFIG_MAP}",
        "MeshPolicy.touchmark.dev default/default",
        "Program.touchmark.dev default/some",
        f"Pod default/{member}",
    }


def test_after_uninstalling_nothing_is_left_and_a_pod_that_asks_is_simply_made(mesh: Mesh, member: str) -> None:
    mesh.uninstall()
    mesh.run_pod("default", "late", "tools", command=["sleep", "3600"], annotations=ASKS)
    assert "initContainers" not in mesh.kubectl.get("pod", "late", "-n", "default")["spec"]
    # The member has kept its sidecar, and is its owner's to make again.
    pod = mesh.kubectl.get("pod", member, "-n", "default")
    assert SIDECAR_CONTAINER in [each["name"] for each in pod["spec"]["initContainers"]]
    mesh.kubectl("delete", "pod", "-n", "default", "late", member, "--now")

    def is_clean() -> bool:
        found = list_objects(mesh.kubectl)
        # A node names the images that it has run.
        named = {name for name, each in found.items() if each["kind"] != "Node" and "touchmark" in json.dumps(each)}
        left = sorted(named | (set(found) - set(mesh.before)))
        assert not left, left
        return True

    # Garbage collection, and the namespaces of earlier tests, take their moment.
    eventually(is_clean, "a cluster as it was before", timeout_s=90)
