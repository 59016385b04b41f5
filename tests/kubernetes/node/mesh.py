"""Touchmark on a cluster, installed and asked as a user does it: by kubectl or the command. Does I/O."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cli.text.exit_codes import ExitCode
from shared.model.kubernetes.contract import INJECT, SIDECAR_CONTAINER, SYSTEM_NAMESPACE
from tests.kubernetes.harness.cluster import Cluster
from tests.kubernetes.harness.kubectl import Kubectl
from tests.kubernetes.harness.prepared_command import PreparedCommand
from tests.kubernetes.node.inventory import list_objects

MANIFESTS = Path(__file__).parents[3] / "manifests"
# The demonstration's public images, and which of ours stand in for them: no registry is asked for anything.
STAND_INS = {
    "docker.io/curlimages/curl": "tools",
    "docker.io/library/nginx": "nginx",
    "docker.io/library/postgres": "postgres",
}


class Mesh:
    """The CA in ``touchmark-system``, and what people do with it."""

    def __init__(
        self,
        cluster: Cluster,
        directory: Path,
        command: PreparedCommand,
        *,
        volume: Path | None = None,
        manifests: Path = MANIFESTS,
        options: Sequence[str] = (),
    ) -> None:
        """``directory`` holds the overlays that are made for this cluster; ``volume`` the CA's data, on the node.

        Without a volume the cluster's own storage class provides one. ``manifests`` may be another release's.
        ``options`` are the CA's further ones.
        """
        self.cluster = cluster
        self.kubectl = cluster.kubectl
        self._directory = directory
        self._command = command
        self._volume = volume
        self.manifests = manifests
        self._options = options
        self.installed = ""
        self.before: dict[str, dict[str, Any]] = {}

    # ---- Installing --------------------------------------------------------------------------------------------------
    def install(
        self, overlay: str = "overlays/single", *, ca: str = "ca", sidecars: Sequence[str] = ("sidecar",)
    ) -> None:
        """Apply an overlay with this clone's images and wait until the CA is ready; ``before`` is what there was.

        Arguments:
            ca: its image, by short name.
            sidecars: images of sidecars that may join, by short name; pods get the first.
        """
        if not self.installed:
            self.before = list_objects(self.kubectl)
        self.installed = overlay
        if self._volume is not None:
            self._make_volume(self._volume)
        settings = [f"TOUCHMARK_SIDECAR_IMAGE={','.join(self.cluster.image(short) for short in sidecars)}"]
        options = [
            {"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": option}
            for option in self._options
        ]
        more: dict[str, object] = {
            "configMapGenerator": [{"name": "touchmark-settings", "behavior": "merge", "literals": settings}]
        }
        if options:
            target = {"kind": "Deployment", "name": "touchmark-ca"}
            more["patches"] = [{"target": target, "patch": json.dumps(options)}]
        self.apply(
            overlay,
            namespace=SYSTEM_NAMESPACE,
            images={"touchmark/ca": self.cluster.image(ca)},
            more=more,
        )
        self.cluster.wait_for_rollout("deployment/touchmark-ca", namespace=SYSTEM_NAMESPACE, timeout_s=120)

    def install_by_command(self, *options: str) -> None:
        """Install with this clone's images by ``touchmark install``: its checks must hold here, and it waits itself."""
        images = ["--image", self.cluster.image("ca"), "--sidecar-image", self.cluster.image("sidecar")]
        done = self._run("install", "--yes", "--timeout", "300", *images, *options, timeout_s=420)
        assert done.returncode == 0, done.stdout + done.stderr

    def uninstall(self) -> None:
        """Delete the overlay as docs/how-to/kubernetes.md says. What lives in other namespaces is the caller's."""
        overlay, self.installed = self.installed, ""
        self.kubectl("delete", "-k", str(self._place(overlay)), timeout_s=180)
        if self._volume is not None:
            self.kubectl("delete", "persistentvolume", "touchmark-ca")

    def apply(
        self,
        directory: str,
        *,
        images: Mapping[str, str],
        namespace: str = "",
        more: Mapping[str, object] | None = None,
    ) -> None:
        """``kubectl apply -k`` of a directory below manifests/ with other images, and wait for nothing."""
        place = self._place(directory)
        place.mkdir(exist_ok=True)
        overlay: dict[str, object] = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [os.path.relpath(self.manifests / directory, place.resolve())],
            "images": [
                {"name": name, "newName": other.rpartition(":")[0], "newTag": other.rpartition(":")[2]}
                for name, other in images.items()
            ],
            **(more or {}),
        }
        if namespace:
            overlay["namespace"] = namespace
        (place / "kustomization.yaml").write_text(json.dumps(overlay), encoding="ascii")
        self.kubectl("apply", "--server-side", "-k", str(place), timeout_s=120)

    def _place(self, directory: str) -> Path:
        return self._directory / directory.replace("/", "-")

    def _make_volume(self, place: Path) -> None:
        """Our node has nobody who provides volumes: this one is for the CA's claim."""
        place.mkdir(exist_ok=True)
        # The kubelet doesn't change the owner of a host's directory: it is made for the image's user.
        os.chown(place, 10001, 10001)
        volume = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": "touchmark-ca"},
            "spec": {
                "capacity": {"storage": "1Gi"},
                "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": "",
                "claimRef": {"namespace": SYSTEM_NAMESPACE, "name": "touchmark-ca"},
                "local": {"path": str(place)},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                    {"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]}]}]}},
            },
        }  # fmt: skip
        self.kubectl.apply(volume)

    # ---- Asking ------------------------------------------------------------------------------------------------------
    def run(self, *arguments: str, timeout_s: float = 90.0) -> subprocess.CompletedProcess[str]:
        """The finished ``touchmark ARGUMENTS -k``, whatever its exit code."""
        return self._run(*arguments, "-k", timeout_s=timeout_s)

    def _run(self, *arguments: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "KUBECONFIG": str(self.cluster.admin), "NO_PROXY": "*", "no_proxy": "*"}
        return self._command.run(arguments, environment=environment, timeout_s=timeout_s)

    def touchmark(self, *arguments: str, timeout_s: float = 90.0) -> str:
        """What ``touchmark ARGUMENTS -k`` prints; it must succeed."""
        done = self.run(*arguments, timeout_s=timeout_s)
        assert done.returncode == 0, f"touchmark {' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def ask(self, *arguments: str) -> Any:
        """The JSON that ``touchmark ARGUMENTS -k --json`` prints."""
        return json.loads(self.touchmark(*arguments, "--json"))

    def decisions(self, *arguments: str) -> list[dict[str, Any]]:
        """Decision records, newest last, as the command filters them."""
        answer = self.ask("decisions", "--limit", "2000", *arguments)
        return [view["record"] for view in (answer["decisions"] if isinstance(answer, dict) else answer)]

    def count_connected(self, namespace: str) -> int:
        """How many of a namespace's sidecars have a stream open with the CA."""
        return sum(row["connected"] for row in self.ask("status")["namespaces"] if row["namespace"] == namespace)

    def find_pod(self, namespace: str, app: str) -> str:
        """The name of the one pod with this ``app`` label that isn't ending."""
        pods = self.kubectl.get("pods", "-n", namespace, "-l", f"app={app}")["items"]
        [name] = [pod["metadata"]["name"] for pod in pods if "deletionTimestamp" not in pod["metadata"]]
        return str(name)

    def sidecar_log(self, namespace: str, pod: str) -> str:
        """What a pod's sidecar has printed."""
        return self.cluster.logs(namespace, pod, container=SIDECAR_CONTAINER)

    # ---- Pods --------------------------------------------------------------------------------------------------------
    def run_pod(
        self,
        namespace: str,
        name: str,
        image: str,
        *,
        command: list[str] | None = None,
        annotations: Mapping[str, str] | None = None,
        service_account: str = "default",
        container: Mapping[str, object] | None = None,
        spec: Mapping[str, object] | None = None,
        wait: bool = True,
    ) -> None:
        """Make a pod of one container ``app`` from one of our images, and wait until it is ready."""
        main = {"name": "app", "image": self.cluster.image(image), "imagePullPolicy": "Never", **(container or {})}
        if command is not None:
            main["command"] = command
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": {"app": name},
                "annotations": dict(annotations or {}),
            },
            "spec": {
                "serviceAccountName": service_account,
                "automountServiceAccountToken": False,
                "terminationGracePeriodSeconds": 2,
                "containers": [main],
                **(spec or {}),
            },
        }
        self.kubectl.apply(pod)
        if wait:
            self.cluster.wait_for("condition=Ready", f"pod/{name}", namespace=namespace)

    def digest_of(self, namespace: str, image: str, path: str) -> str:
        """The SHA-256 of a file in an image, as a reviewer finds it: a pod outside the mesh prints it."""
        name = "digest"
        command = ["sh", "-c", f"sha256sum $(readlink -f {path}); sleep 3600"]
        container = {"image": image, "command": command}
        self.run_pod(namespace, name, "tools", container=container, annotations={INJECT: "false"})
        digest = eventually(lambda: self.cluster.logs(namespace, name, container="app").partition(" ")[0], "the digest")
        self.kubectl("delete", "pod", "-n", namespace, name, "--now")
        return str(digest)

    def write(self, name: str, text: str) -> Path:
        """Write a file that a command reads."""
        path = self._directory / name
        path.write_text(text, encoding="utf-8")
        return path

    def approve_what_was_seen(self, *workloads: str) -> None:
        """Approve the programs that the decisions saw each workload run, as a reviewer would.

        Decisions arrive a moment after their connections: until one does, the command says that it found nothing.
        """
        for workload in workloads:
            eventually(partial(self._has_approved, workload), f"a decision about a program of {workload}")

    def _has_approved(self, workload: str) -> bool:
        done = self.run("program", "approve", workload, "--from-decisions", "--weak", "--yes")
        assert done.returncode in (ExitCode.SUCCESS, ExitCode.NOTHING), done.stdout + done.stderr
        return done.returncode == ExitCode.SUCCESS

    def be_explicit(self, *namespaces: str) -> None:
        """Switch to explicit and wait until every sidecar has said so."""
        for namespace in namespaces:
            self.touchmark("mode", namespace, "explicit", "--force", "--timeout", "60")


def clear(kubectl: Kubectl) -> None:
    """Take any installation of one CA away, so that another one can take its place."""
    if kubectl.run("get", "namespace", SYSTEM_NAMESPACE).returncode == 0:
        kubectl("delete", "--ignore-not-found", "-k", str(MANIFESTS / "overlays/single"), timeout_s=180)
        kubectl("delete", "--ignore-not-found", "persistentvolume", "touchmark-ca")


def eventually(is_so: Callable[[], Any], what: str, *, timeout_s: float = 120.0, pause_s: float = 0.5) -> Any:
    """Wait until ``is_so()`` gives something true and return that; its AssertionErrors count as not yet."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            found = is_so()
        except AssertionError as error:
            found, last = None, f": {error}"
        else:
            last = ""
        if found:
            return found
        assert time.monotonic() < deadline, f"{what} didn't come within {timeout_s:.0f} s{last}"
        time.sleep(pause_s)
