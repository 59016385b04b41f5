"""A CA as the service account that it has in a cluster, and what tests create around it at the API server.

No kubelet runs at this level: a pod's status is what a test writes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final

from ca.kubernetes.api.client import ClusterClient
from ca.runtime.compose import RunningCA
from shared.model.errors import ConflictError
from shared.model.kubernetes.contract import CA_SERVICE, LEASE, SYSTEM_NAMESPACE, TOKEN_AUDIENCE
from tests.ca.kubernetes.faked_cluster import cluster_of
from tests.ca.kubernetes.making import IMAGE, make_pod_json
from tests.ca.running import running_ca
from tests.kubernetes.harness.api_server import ApiServer

# What the CA may do at least for enrolment, the directory, policy objects and the Lease; the manifests' roles hold it,
# too (the Lease in the CA's own namespace only).
RULES: Final = [
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": [""], "resources": ["namespaces", "services"], "verbs": ["list", "watch"]},
    {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
    {"apiGroups": ["touchmark.dev"], "resources": ["meshpolicies", "programs"], "verbs": ["list", "watch"]},
    {"apiGroups": ["touchmark.dev"], "resources": ["meshpolicies/status", "programs/status"], "verbs": ["patch"]},
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
    {
        "apiGroups": ["coordination.k8s.io"],
        "resources": ["leases"],
        "resourceNames": [LEASE],
        "verbs": ["get", "patch"],
    },
]
_RBAC: Final = "rbac.authorization.k8s.io"


def make_ca_kubeconfig(api_server: ApiServer) -> Path:
    """Create the CA's namespace, service account and rights, and write its kubeconfig."""
    api_server.create_namespace(SYSTEM_NAMESPACE)
    kubeconfig = api_server.service_account_kubeconfig(SYSTEM_NAMESPACE, CA_SERVICE)
    metadata = {"name": "test-touchmark-ca"}
    subject = {"kind": "ServiceAccount", "name": CA_SERVICE, "namespace": SYSTEM_NAMESPACE}
    api_server.kubectl.apply(
        {"apiVersion": f"{_RBAC}/v1", "kind": "ClusterRole", "metadata": metadata, "rules": RULES},
    )
    api_server.kubectl.apply(
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": "test-touchmark-ca"},
            "subjects": [subject],
        },
    )
    return kubeconfig


@contextlib.asynccontextmanager
async def running_ca_in_cluster(directory: Path, kubeconfig: Path, **options: Any) -> AsyncIterator[RunningCA]:
    """Run a CA in the cluster of a kubeconfig, once it has read it."""
    given: dict[str, Any] = {"kubernetes": True, "kubeconfig": kubeconfig, "sidecar_images": (IMAGE,)}
    async with running_ca(directory, **{**given, **options}) as services:
        for watch in cluster_of(services).watches.values():
            await asyncio.wait_for(watch.is_synced.wait(), 30)
        yield services


class Objects:
    """What an administrator creates in one namespace."""

    def __init__(self, client: ClusterClient, namespace: str) -> None:
        self.client = client
        self.namespace = namespace

    @classmethod
    @contextlib.asynccontextmanager
    async def of(cls, api_server: ApiServer, namespace: str) -> AsyncIterator[Objects]:
        """Open a client for them; the pods go at the end, so that their addresses are free for the next test."""
        client = await ClusterClient.open(api_server.admin)
        objects = cls(client, namespace)
        try:
            yield objects
            await client.ask("DELETE", objects.path("pods"), query={"gracePeriodSeconds": "0"}, deadline_s=120.0)
        finally:
            await client.close()

    def path(self, kind: str, name: str = "", *, group: str = "/api/v1") -> str:
        """Return the path of a collection, or of one object in it."""
        return f"{group}/namespaces/{self.namespace}/{kind}" + (f"/{name}" if name else "")

    async def create_account(self, name: str) -> None:
        """Create a service account unless it is there."""
        body = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}
        with contextlib.suppress(ConflictError):
            await self.client.post(self.path("serviceaccounts"), body, dict)

    async def create_pod(self, name: str, *addresses: str, account: str = "web", **options: Any) -> str:
        """Create a pod (injected unless told otherwise), let it run at these addresses, and return its UID."""
        await self.create_account(account)
        pod = make_pod_json(name, account=account, namespace=self.namespace, **options)
        metadata = {"name": name, "annotations": pod["metadata"]["annotations"]}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod["spec"]}
        created: dict[str, Any] = await self.client.post(self.path("pods"), body, dict)
        await self.set_status(name, *addresses)
        return str(created["metadata"]["uid"])

    async def set_status(self, name: str, *addresses: str, phase: str = "Running") -> None:
        """Write what a kubelet would."""
        status: dict[str, Any] = {"phase": phase}
        if addresses:
            status |= {"podIP": addresses[0], "podIPs": [{"ip": address} for address in addresses]}
        await self.client.patch(f"{self.path('pods', name)}/status", {"status": status}, dict)

    async def delete_pod(self, name: str, *, grace_s: int = 0) -> None:
        """Delete a pod; with a grace period it stays, terminating, for nobody here ends it."""
        path = self.path("pods", name)
        await self.client.ask("DELETE", path, query={"gracePeriodSeconds": str(grace_s)})

    async def request_token(
        self, account: str, pod: str | None, uid: str | None = None, *, audience: str = TOKEN_AUDIENCE
    ) -> str:
        """Have the API server make a token as the kubelet does: bound to the pod, when there is one."""
        spec: dict[str, Any] = {"audiences": [audience], "expirationSeconds": 3600}
        if pod is not None:
            spec["boundObjectRef"] = {"kind": "Pod", "apiVersion": "v1", "name": pod, "uid": uid}
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        answer: dict[str, Any] = await self.client.post(f"{self.path('serviceaccounts', account)}/token", body, dict)
        return str(answer["status"]["token"])

    async def create_service(
        self, name: str, ports: list[dict[str, Any]], *, spec: Mapping[str, Any] | None = None
    ) -> list[str]:
        """Create a Service with a selector that nobody follows here, and return its cluster IPs."""
        body = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": {"selector": {"app": name}, "ports": ports, **(spec or {})},
        }
        created: dict[str, Any] = await self.client.post(self.path("services"), body, dict)
        return list(created["spec"].get("clusterIPs", ()))

    async def put_slice(
        self,
        name: str,
        service: str,
        ports: list[dict[str, Any]],
        endpoints: list[dict[str, Any]],
        *,
        kind: str = "IPv4",
    ) -> None:
        """Create or replace an EndpointSlice, as the controller would."""
        group = "/apis/discovery.k8s.io/v1"
        body = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
            "addressType": kind,
            "ports": ports,
            "endpoints": endpoints,
        }
        await self.client.apply(self.path("endpointslices", name, group=group), body, dict)
