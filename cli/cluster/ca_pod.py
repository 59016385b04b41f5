"""Which pods run the CA, and which of them are ready. Pure, except for the request to the API server."""

from __future__ import annotations

from typing import Any, Final

from cli.cluster.connection import PODS, Cluster, Object
from cli.cluster.faults import INSTALL_HINT, NoCAPodError
from shared.model.kubernetes.contract import CA_SERVICE

NAME_LABEL: Final = "app.kubernetes.io/name"
SELECTOR: Final = f"{NAME_LABEL}={CA_SERVICE}"


async def list_ca_pods(cluster: Cluster, namespace: str) -> list[Object]:
    """Return the CA's pods, ready or not."""
    return await cluster.list(PODS, namespace, labelSelector=SELECTOR)


async def find_ready_pods(cluster: Cluster, namespace: str) -> list[str]:
    """Return the names of the CA's pods that are ready, oldest first: those have proven themselves.

    Raises:
        NoCAPodError: none is.
    """
    pods = await list_ca_pods(cluster, namespace)
    ready = sorted((pod for pod in pods if is_ready(pod)), key=lambda pod: str(_meta(pod).get("creationTimestamp")))
    if ready:
        return [_meta(pod)["name"] for pod in ready]
    if not pods:
        raise NoCAPodError(
            f"no CA runs in namespace {namespace}: no pod has the label {SELECTOR}",
            hint=f"{INSTALL_HINT}; --system-namespace selects another namespace",
        )
    states = ", ".join(f"{_meta(pod).get('name')} ({describe_state(pod)})" for pod in pods[:5])
    raise NoCAPodError(
        f"no CA pod in namespace {namespace} is ready: {states}",
        hint=f"kubectl -n {namespace} describe pod -l {SELECTOR}",
    )


def is_ready(pod: Object) -> bool:
    """Return whether a pod is ready and stays."""
    if _meta(pod).get("deletionTimestamp"):
        return False
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)


def describe_state(pod: Object) -> str:
    """Say in a few words how a pod is: its containers' reason, else its phase."""
    if _meta(pod).get("deletionTimestamp"):
        return "terminating"
    status = pod.get("status") or {}
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        for state in ("waiting", "terminated"):
            reason = ((container.get("state") or {}).get(state) or {}).get("reason")
            if reason and reason != "Completed":
                return f"{container.get('name')}: {reason}"
    if is_ready(pod):
        return "ready"
    return str(status.get("reason") or f"{status.get('phase', 'unknown')}, not ready")


def _meta(pod: Object) -> dict[str, Any]:
    return pod.get("metadata") or {}
