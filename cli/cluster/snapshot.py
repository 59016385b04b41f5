"""Collecting everything that ``doctor`` looks at in a cluster; a failed request is kept as its error. Does I/O.

Belongs here: the questions. Doesn't: what the answers mean (``examination.py``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from cli.admin.observation import Observation, observe
from cli.cluster.ca_pod import list_ca_pods
from cli.cluster.ca_rights import RIGHTS, Right, make_review
from cli.cluster.connection import (
    ACCESS_REVIEWS,
    ADMISSION_BINDINGS,
    ADMISSION_POLICIES,
    DEFINITIONS,
    MESH_POLICIES,
    NAMESPACES,
    NETWORK_POLICIES,
    PODS,
    PROGRAMS,
    WEBHOOKS,
    Cluster,
    Object,
)
from cli.cluster.port_forward import forward_admin
from shared.model.errors import TouchmarkError
from shared.model.kubernetes import contract
from shared.model.kubernetes.contract import GROUP, INJECT, SIDECAR_CONTAINER, WEBHOOK_CONFIGURATION
from shared.model.policy.documents import POLICY_NAME

ADMIN_TIMEOUT_S: Final = 10.0
MAX_AT_ONCE: Final = 8
_TRIAL_IMAGE: Final = "touchmark.dev/trial:none"

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSnapshot:
    """A cluster's answers; each may be the error of its request instead.

    Attributes:
        version: of the API server, such as ``v1.34.4``.
        api_skew_s: the API server's clock minus this machine's, to about a second.
        definitions: our CustomResourceDefinitions by name; None: not there.
        webhook: the MutatingWebhookConfiguration; None: not there.
        admission_policies: our ValidatingAdmissionPolicies by name, each with its binding; None: not there.
        ca_pods, namespaces, pods, network_policies: as they are. ``pods``: of the whole cluster.
        saying: namespaces with a MeshPolicy in force, whose status says the mode.
        missing_rights: of the CA's service account.
        trial: whether a pod that asks for injection got it, on trial in ``trial_namespace``.
        observed: the CA's own answers.
        ca_skew_s: the CA's clock minus this machine's; None when the CA can't be asked.
    """

    system_namespace: str
    version: str
    api_skew_s: float | None
    definitions: dict[str, Object | None] | TouchmarkError
    webhook: Object | TouchmarkError | None
    admission_policies: dict[str, tuple[Object | None, Object | None]] | TouchmarkError
    ca_pods: list[Object] | TouchmarkError
    namespaces: list[Object] | TouchmarkError
    pods: list[Object] | TouchmarkError
    network_policies: list[Object] | TouchmarkError
    saying: frozenset[str] | TouchmarkError
    missing_rights: list[Right] | TouchmarkError
    trial_namespace: str
    trial: bool | TouchmarkError
    observed: Observation | TouchmarkError
    ca_skew_s: float | None


async def take_snapshot(cluster: Cluster, system_namespace: str) -> ClusterSnapshot:
    """Send every request.

    Raises:
        UnreachableError: the API server doesn't answer at all.
        UnauthorizedError: it doesn't know who asks.
    """
    before = time.time()
    version = str((await cluster.get_path("/version")).get("gitVersion", "unknown"))
    api_skew_s = _measure_skew(before, time.time(), cluster.server_time)
    async with asyncio.TaskGroup() as group:
        namespaces = group.create_task(_try(cluster.list(NAMESPACES)), name="namespaces")
        pods = group.create_task(_try(cluster.list(PODS, keep=trim_pod)), name="pods")
        policies = group.create_task(_try(cluster.list(NETWORK_POLICIES)), name="network policies")
        saying = group.create_task(_try(_find_saying(cluster)), name="mesh policies")
        ca_pods = group.create_task(_try(list_ca_pods(cluster, system_namespace)), name="CA pods")
        definitions = group.create_task(_try(_find_definitions(cluster)), name="definitions")
        webhook = group.create_task(_try(cluster.find(WEBHOOKS, "", WEBHOOK_CONFIGURATION)), name="webhook")
        admission = group.create_task(_try(_find_admission_policies(cluster)), name="admission policies")
        rights = group.create_task(_try(_find_missing_rights(cluster, system_namespace)), name="rights")
        from_ca = group.create_task(_try(_ask_ca(cluster, system_namespace)), name="CA")
    trial_namespace = _choose_trial_namespace(namespaces.result(), pods.result(), system_namespace)
    answer = from_ca.result()
    observed, ca_skew_s = (answer, None) if isinstance(answer, TouchmarkError) else answer
    return ClusterSnapshot(
        system_namespace=system_namespace,
        version=version,
        api_skew_s=api_skew_s,
        definitions=definitions.result(),
        webhook=webhook.result(),
        admission_policies=admission.result(),
        ca_pods=ca_pods.result(),
        namespaces=namespaces.result(),
        pods=pods.result(),
        network_policies=policies.result(),
        saying=saying.result(),
        missing_rights=rights.result(),
        trial_namespace=trial_namespace,
        trial=await _try(_try_injection(cluster, trial_namespace)),
        observed=observed,
        ca_skew_s=ca_skew_s,
    )


async def _try(question: Awaitable[T]) -> T | TouchmarkError:
    try:
        return await question
    except TouchmarkError as error:
        return error


async def _find_saying(cluster: Cluster) -> frozenset[str]:
    listed = await cluster.list(MESH_POLICIES, keep=lambda each: {"metadata": each["metadata"]})
    return frozenset(each["metadata"]["namespace"] for each in listed if each["metadata"]["name"] == POLICY_NAME)


async def _find_definitions(cluster: Cluster) -> dict[str, Object | None]:
    names = [f"{kind.plural}.{GROUP}" for kind in (MESH_POLICIES, PROGRAMS)]
    return {name: await cluster.find(DEFINITIONS, "", name) for name in names}


async def _find_admission_policies(cluster: Cluster) -> dict[str, tuple[Object | None, Object | None]]:
    return {
        name: (await cluster.find(ADMISSION_POLICIES, "", name), await cluster.find(ADMISSION_BINDINGS, "", name))
        for name in contract.ADMISSION_POLICIES
    }


async def _find_missing_rights(cluster: Cluster, namespace: str) -> list[Right]:
    slots = asyncio.Semaphore(MAX_AT_ONCE)

    async def has(right: Right) -> bool:
        async with slots:
            answer = await cluster.create(ACCESS_REVIEWS, make_review(right, namespace))
        return (answer.get("status") or {}).get("allowed") is True

    # The first one alone: without the right to ask there is one refusal instead of thirty.
    first = await has(RIGHTS[0])
    rest = await asyncio.gather(*(has(right) for right in RIGHTS[1:]))
    return [right for right, is_there in zip(RIGHTS, [first, *rest], strict=True) if not is_there]


async def _ask_ca(cluster: Cluster, namespace: str) -> tuple[Observation, float | None]:
    async with forward_admin(cluster, namespace, timeout_s=ADMIN_TIMEOUT_S) as client:
        before = time.time()
        now = (await client.get_status()).now
        skew_s = _measure_skew(before, time.time(), now)
        return await observe(client, is_in_cluster=True), skew_s


async def _try_injection(cluster: Cluster, namespace: str) -> bool:
    """Create a pod that asks for injection, on trial: nothing is stored, nothing runs, and our webhook answers."""
    pod: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "touchmark-doctor-trial", "namespace": namespace, "annotations": {INJECT: "true"}},
        "spec": {"containers": [{"name": "trial", "image": _TRIAL_IMAGE}]},
    }
    made = await cluster.create(PODS, pod, namespace, dry_run=True)
    return has_sidecar(made)


def has_sidecar(pod: Object) -> bool:
    """Return whether a pod has a container of our sidecar's name."""
    containers = (pod.get("spec") or {}).get("initContainers") or ()
    return any(container.get("name") == SIDECAR_CONTAINER for container in containers)


def trim_pod(pod: Object) -> Object:
    """Return the fields of a pod that are used here: the rest of many thousand pods would fill the memory."""
    metadata, spec, status = pod.get("metadata") or {}, pod.get("spec") or {}, pod.get("status") or {}
    trimmed = {
        "metadata": _pick(metadata, "name", "namespace", "labels", "creationTimestamp", "deletionTimestamp"),
        "spec": {
            **_pick(spec, "hostNetwork", "hostPID"),
            **{
                part: [_trim_container(each) for each in spec.get(part) or ()]
                for part in ("initContainers", "containers")
            },
        },
        "status": {
            **_pick(status, "phase", "reason", "podIPs"),
            "conditions": [_pick(each, "type", "status") for each in status.get("conditions") or ()],
            **{
                part: [_pick(each, "name", "state") for each in status.get(part) or ()]
                for part in ("initContainerStatuses", "containerStatuses")
            },
        },
    }
    trimmed["metadata"]["annotations"] = _pick(metadata.get("annotations") or {}, INJECT)
    return trimmed


def _trim_container(container: Object) -> Object:
    trimmed = _pick(container, "name", "image", "ports")
    if (container.get("securityContext") or {}).get("privileged"):
        trimmed["securityContext"] = {"privileged": True}
    return trimmed


def _pick(value: Object, *names: str) -> Object:
    return {name: value[name] for name in names if value.get(name) is not None}


def _choose_trial_namespace(
    namespaces: list[Object] | TouchmarkError, pods: list[Object] | TouchmarkError, system_namespace: str
) -> str:
    """Choose where a pod is tried: where injected ones live, else where the label asks for them, else ``default``."""
    if not isinstance(pods, TouchmarkError):
        for pod in pods:
            if has_sidecar(pod) and pod["metadata"]["namespace"] != system_namespace:
                return str(pod["metadata"]["namespace"])
    if not isinstance(namespaces, TouchmarkError):
        for namespace in namespaces:
            if ((namespace.get("metadata") or {}).get("labels") or {}).get(INJECT) == "true":
                return str(namespace["metadata"]["name"])
    return "default"


def _measure_skew(before: float, after: float, there: float) -> float | None:
    """Return how far another clock is ahead; 0 where the time of asking explains it, a Date's missing fraction too."""
    if not there:
        return None
    if there + 1 < before:
        return there + 1 - before
    return max(0.0, there - after)
