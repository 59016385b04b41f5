"""A whole CA with a played API server behind it: pods and reviews as the test says, watches that stay silent."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from aiohttp import web

from ca.runtime.cluster import Cluster
from ca.runtime.compose import RunningCA
from shared.model.wire.messages import EnrolPod, FromCA
from tests.ca.kubernetes.faking import faked, write_kubeconfig
from tests.ca.kubernetes.making import IMAGE
from tests.ca.running import FakeSidecar, make_registration, running_ca

CA_NAME = "touchmark-ca.touchmark-system.svc"


class FakeCluster:
    """Pods by name; a token is its pod's name, or a user's. ``rights``: (user, verb, resource.group, namespace)."""

    def __init__(self) -> None:
        self.users: set[str] = set()
        self.rights: set[tuple[str, str, str, str]] = set()
        self.client_roots = ""
        self.pods: dict[str, dict[str, Any]] = {}
        self.namespaces: dict[str, bool] = {}
        self.is_away = False

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if self.is_away:
            return web.json_response({"message": "away"}, status=503)
        if "watch" in request.query:
            response = web.StreamResponse()
            await response.prepare(request)
            await asyncio.sleep(60)
            return response
        match request.path:
            case "/api/v1/pods":
                return _list([pod for pod in self.pods.values() if pod["status"]["phase"] == "Running"])
            case "/api/v1/namespaces":
                label = {True: {"touchmark.dev/inject": "true"}, False: {}}
                return _list([{"metadata": {"name": n, "labels": label[on]}} for n, on in self.namespaces.items()])
            case "/version":
                return web.json_response({"gitVersion": "v1.36.2"})
            case "/apis/authentication.k8s.io/v1/tokenreviews":
                return self._review((await request.json())["spec"]["token"])
            case "/apis/authorization.k8s.io/v1/subjectaccessreviews":
                return self._review_access((await request.json())["spec"])
            case "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication":
                return web.json_response({"data": {"client-ca-file": self.client_roots}})
        name = request.path.rpartition("/")[2]
        if name in self.pods:
            return web.json_response(self.pods[name])
        return _list([])

    def _review_access(self, spec: dict[str, Any]) -> web.Response:
        asked = spec["resourceAttributes"]
        namespaces = {asked.get("namespace", ""), ""}
        wanted = {(spec["user"], asked["verb"], f"{asked['resource']}.{asked['group']}", name) for name in namespaces}
        return web.json_response({"status": {"allowed": bool(self.rights & wanted)}})

    def _review(self, token: str) -> web.Response:
        if token in self.users:
            known = {"username": token, "groups": ["system:authenticated"]}
            return web.json_response({"status": {"authenticated": True, "user": known}})
        pod = self.pods.get(token)
        if pod is None:
            return web.json_response({"status": {"error": "[invalid bearer token]"}})
        extra = {"pod-name": pod["metadata"]["name"], "pod-uid": pod["metadata"]["uid"]}
        user = {
            "username": f"system:serviceaccount:{pod['metadata']['namespace']}:{pod['spec']['serviceAccountName']}",
            "extra": {f"authentication.kubernetes.io/{name}": [value] for name, value in extra.items()},
        }
        return web.json_response({"status": {"authenticated": True, "user": user, "audiences": ["touchmark-ca"]}})


def _list(items: list[dict[str, Any]]) -> web.Response:
    return web.json_response({"metadata": {"resourceVersion": "1"}, "items": items})


@contextlib.asynccontextmanager
async def running_in_cluster(directory: Path, cluster: FakeCluster, **options: Any) -> AsyncIterator[RunningCA]:
    """Run a CA in such a cluster, once it has read it."""
    async with faked(directory, cluster.handle) as client:
        kubeconfig = write_kubeconfig(directory / "ca-kubeconfig", client.api.configuration.host)
        given = {"kubernetes": True, "kubeconfig": kubeconfig, "sidecar_images": (IMAGE,), "names": (CA_NAME,)}
        async with running_ca(directory, **{**given, **options}) as services:
            if not cluster.is_away:
                for watch in cluster_of(services).watches.values():
                    await asyncio.wait_for(watch.is_synced.wait(), 60)
            yield services


def cluster_of(services: RunningCA) -> Cluster:
    """Return the cluster of a CA that runs in one."""
    assert isinstance(services.cluster, Cluster)
    return services.cluster


async def enrol_pod(sidecar: FakeSidecar, token: str, instance: str, *addresses: str) -> FromCA:
    """Send a pod's token and return the answer; the chain of a welcome is kept."""
    registration = make_registration(instance, *addresses)
    await sidecar.send(EnrolPod(token=token, csr=sidecar.csr, registration=registration))
    answer = await sidecar.receive()
    sidecar.chain = getattr(answer, "chain", ())
    return answer
