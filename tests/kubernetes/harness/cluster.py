"""What tests do with any cluster through kubectl: an API server alone, a node of ours, or somebody else's. Does I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.kubernetes import images
from tests.kubernetes.harness.kubectl import Kubectl


class Cluster:
    """A cluster and its administrator."""

    def __init__(self, admin: Path) -> None:
        """``admin`` is the administrator's kubeconfig."""
        self.admin = admin
        self.kubectl = Kubectl(admin)

    def image(self, short: str) -> str:
        """The name under which pods get an image: ``ca``, ``sidecar``, ``tools``, ``nginx``, ``python``, ….

        Whoever brings a cluster loads these images into it first (`scripts.kubernetes.images`).
        """
        return images.name(short)

    # ---- Accounts ----------------------------------------------------------------------------------------------------
    def create_namespace(self, name: str, *, labels: Mapping[str, str] | None = None) -> None:
        """Create it with its ``default`` service account, without which the API server admits no pod."""
        metadata = {"name": name, "labels": dict(labels or {})}
        self.kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        self.create_service_account(name, "default")

    def create_service_account(self, namespace: str, name: str) -> None:
        """Create it unless it is there: an API server alone does that not even for ``default``."""
        metadata = {"name": name, "namespace": namespace}
        self.kubectl.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})

    def token(
        self,
        namespace: str,
        service_account: str,
        *,
        audiences: Sequence[str] = (),
        pod: str | None = None,
        pod_uid: str | None = None,
        lifetime_s: int = 3600,
    ) -> str:
        """A token by TokenRequest, as the kubelet gets it for a projected volume; ``pod`` binds it to that pod.

        The API server refuses lifetimes below 600 s: for an expired token use `ApiServer.resign`.
        """
        arguments = ["create", "token", service_account, "-n", namespace, f"--duration={lifetime_s}s"]
        arguments += [f"--audience={audience}" for audience in audiences]
        if pod is not None:
            arguments += ["--bound-object-kind=Pod", f"--bound-object-name={pod}"]
        if pod_uid is not None:
            arguments += [f"--bound-object-uid={pod_uid}"]
        return self.kubectl(*arguments).strip()

    def review_token(self, token: str, *audiences: str) -> Any:
        """The status of a TokenReview."""
        document = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": list(audiences)},
        }
        return json.loads(self.kubectl("create", "-f", "-", "-o", "json", stdin=json.dumps(document)))["status"]

    # ---- Pods --------------------------------------------------------------------------------------------------------
    def wait_for(self, condition: str, resource: str, *, namespace: str, timeout_s: int = 90) -> None:
        """``wait_for("condition=Ready", "pod/web")``; raises with a description of the object when it takes longer."""
        result = self.kubectl.run(
            "wait", "-n", namespace, f"--for={condition}", resource, f"--timeout={timeout_s}s", timeout_s=timeout_s + 30
        )
        if result.returncode != 0:
            description = self.kubectl.run("describe", "-n", namespace, resource).stdout
            raise AssertionError(f"{result.stderr.strip()}\n{description}")

    def wait_for_rollout(self, resource: str, *, namespace: str, timeout_s: int = 90) -> None:
        """Wait until a deployment, stateful set or daemon set is out, as ``kubectl rollout status`` says."""
        options = ["-n", namespace, f"--timeout={timeout_s}s"]
        result = self.kubectl.run("rollout", "status", resource, *options, timeout_s=timeout_s + 30)
        if result.returncode != 0:
            description = self.kubectl.run("describe", "-n", namespace, "pods").stdout
            raise AssertionError(f"{result.stderr.strip()}\n{description}")

    def execute(
        self, namespace: str, pod: str, *command: str, container: str | None = None, timeout_s: float = 60.0
    ) -> str:
        """Standard output of a command in a pod; raises `KubectlError` when it fails."""
        where = ["-c", container] if container is not None else []
        return self.kubectl("exec", "-n", namespace, pod, *where, "--", *command, timeout_s=timeout_s)

    def logs(self, namespace: str, pod: str, *, container: str | None = None, previous: bool = False) -> str:
        """What a container has printed."""
        options = ["-c", container] if container is not None else []
        options += ["--previous"] if previous else []
        return self.kubectl("logs", "-n", namespace, pod, *options)
