"""Asking a cluster what an installation needs to know; a failed request is kept as its error. Does I/O.

Belongs here: the questions. Doesn't: what the answers mean (``judgement.py``, ``limits.py``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Final, TypeVar

from cli.cluster.connection import NAMESPACES, WEBHOOKS, Cluster, Kind, Object
from shared.model.errors import TouchmarkError
from shared.model.kubernetes.contract import CA_SERVICE, WEBHOOK_CONFIGURATION

ADMISSION_API: Final = "/apis/admissionregistration.k8s.io/v1"
DEPLOYMENTS: Final = Kind(group="apps", version="v1", plural="deployments")
LIMIT_RANGES: Final = Kind(group="", version="v1", plural="limitranges")
NODES: Final = Kind(group="", version="v1", plural="nodes")
PRIORITY_CLASSES: Final = Kind(group="scheduling.k8s.io", version="v1", plural="priorityclasses")
QUOTAS: Final = Kind(group="", version="v1", plural="resourcequotas")
SELF_ACCESS_REVIEWS: Final = Kind(group="authorization.k8s.io", version="v1", plural="selfsubjectaccessreviews")
SLICES: Final = Kind(group="discovery.k8s.io", version="v1", plural="endpointslices")
STORAGE_CLASSES: Final = Kind(group="storage.k8s.io", version="v1", plural="storageclasses")
MAX_AT_ONCE: Final = 8

# What an installation makes: API group, plural, whether it is in the CA's namespace.
INSTALLED: Final[tuple[tuple[str, str, bool], ...]] = (
    ("", "namespaces", False),
    ("", "serviceaccounts", True),
    ("", "configmaps", True),
    ("", "services", True),
    ("", "persistentvolumeclaims", True),
    ("apps", "deployments", True),
    ("policy", "poddisruptionbudgets", True),
    ("networking.k8s.io", "networkpolicies", True),
    ("rbac.authorization.k8s.io", "roles", True),
    ("rbac.authorization.k8s.io", "rolebindings", True),
    ("rbac.authorization.k8s.io", "clusterroles", False),
    ("rbac.authorization.k8s.io", "clusterrolebindings", False),
    ("apiextensions.k8s.io", "customresourcedefinitions", False),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations", False),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies", False),
    ("admissionregistration.k8s.io", "validatingadmissionpolicybindings", False),
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """A cluster's answers; each may be the error of its request instead.

    Attributes:
        namespace: where Touchmark is to be installed.
        version: of the API server, such as ``v1.34.4``.
        admission: plurals that ``admissionregistration.k8s.io/v1`` serves.
        missing_rights: ``create deployments.apps`` and so on, which the user lacks.
        webhook, deployment: of an existing installation; None: there is none. The Deployment is sought where the
            webhook's Service is.
        slices: of the Service ``kubernetes``, behind which the API server is.
    """

    namespace: str
    version: str
    admission: list[str] | TouchmarkError
    missing_rights: list[str] | TouchmarkError
    webhook: Object | TouchmarkError | None
    deployment: Object | TouchmarkError | None
    namespaces: list[Object] | TouchmarkError
    limit_ranges: list[Object] | TouchmarkError
    quotas: list[Object] | TouchmarkError
    priority_classes: list[Object] | TouchmarkError
    storage_classes: list[Object] | TouchmarkError
    nodes: list[Object] | TouchmarkError
    slices: list[Object] | TouchmarkError


async def ask(cluster: Cluster, namespace: str) -> Answers:
    """Send every request.

    Raises:
        UnreachableError: the API server doesn't answer at all.
        UnauthorizedError: it doesn't know who asks.
    """
    version = str((await cluster.get_path("/version")).get("gitVersion", "unknown"))
    async with asyncio.TaskGroup() as group:
        admission = group.create_task(_try(_list_admission(cluster)), name="admission")
        rights = group.create_task(_try(_find_missing_rights(cluster, namespace)), name="rights")
        webhook = group.create_task(_try(cluster.find(WEBHOOKS, "", WEBHOOK_CONFIGURATION)), name="webhook")
        lists = {
            kind.plural: group.create_task(_try(cluster.list(kind)), name=kind.plural)
            for kind in (NAMESPACES, LIMIT_RANGES, QUOTAS, PRIORITY_CLASSES, STORAGE_CLASSES)
        }
        nodes = group.create_task(_try(cluster.list(NODES, keep=_trim_node)), name="nodes")
        slices = group.create_task(
            _try(cluster.list(SLICES, "default", labelSelector="kubernetes.io/service-name=kubernetes")), name="slices"
        )
    found = webhook.result()
    place = namespace if found is None or isinstance(found, TouchmarkError) else find_namespace(found) or namespace
    return Answers(
        namespace=namespace,
        version=version,
        admission=admission.result(),
        missing_rights=rights.result(),
        webhook=found,
        deployment=await _try(cluster.find(DEPLOYMENTS, place, CA_SERVICE)),
        namespaces=lists[NAMESPACES.plural].result(),
        limit_ranges=lists[LIMIT_RANGES.plural].result(),
        quotas=lists[QUOTAS.plural].result(),
        priority_classes=lists[PRIORITY_CLASSES.plural].result(),
        storage_classes=lists[STORAGE_CLASSES.plural].result(),
        nodes=nodes.result(),
        slices=slices.result(),
    )


def find_namespace(webhook: Object) -> str:
    """Return the namespace of the Service that a webhook configuration names; empty when it names none."""
    for each in webhook.get("webhooks") or ():
        service = (each.get("clientConfig") or {}).get("service") or {}
        if service.get("namespace"):
            return str(service["namespace"])
    return ""


def make_review(verb: str, group: str, plural: str, namespace: str) -> Object:
    """Return the SelfSubjectAccessReview (authorization.k8s.io/v1) for one right; without a namespace everywhere."""
    attributes = {"verb": verb, "group": group, "resource": plural, "namespace": namespace}
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {key: value for key, value in attributes.items() if value}},
    }


async def _try(question: Awaitable[T]) -> T | TouchmarkError:
    try:
        return await question
    except TouchmarkError as error:
        return error


async def _list_admission(cluster: Cluster) -> list[str]:
    return [str(each.get("name")) for each in (await cluster.get_path(ADMISSION_API)).get("resources") or ()]


async def _find_missing_rights(cluster: Cluster, namespace: str) -> list[str]:
    slots = asyncio.Semaphore(MAX_AT_ONCE)

    async def lacks(verb: str, group: str, plural: str, place: str) -> str:
        async with slots:
            answer = await cluster.create(SELF_ACCESS_REVIEWS, make_review(verb, group, plural, place))
        is_allowed = (answer.get("status") or {}).get("allowed") is True
        return "" if is_allowed else f"{verb} {plural}" + (f".{group}" if group else "")

    asked = [
        lacks(verb, group, plural, namespace if is_own else "")
        for group, plural, is_own in INSTALLED
        for verb in ("create", "patch")
    ]
    return [missing for missing in await asyncio.gather(*asked) if missing]


def _trim_node(node: Object) -> Object:
    return {
        "metadata": {"name": node["metadata"]["name"]},
        "nodeInfo": (node.get("status") or {}).get("nodeInfo") or {},
    }
