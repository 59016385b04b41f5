"""The permissions that the CA's service account needs, as RBAC names them. Pure.

Belongs here: the list that ``doctor`` asks the API server about, as ``ca/kubernetes`` uses it. Doesn't: the roles
themselves (``manifests/base/roles.yaml``); a test compares them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from shared.model.kubernetes.contract import CLUSTER_ROLE, GROUP, LEASE, TRUST_CONFIG_MAP, WEBHOOK_CONFIGURATION

SERVICE_ACCOUNT: Final = "touchmark-ca"
KEK_SECRET: Final = "touchmark-kek"
CLIENT_ROOTS_CONFIG_MAP: Final = "extension-apiserver-authentication"  # In kube-system, by the API server itself.


@dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    """One right. ``is_own``: in the CA's own namespace; else in the whole cluster."""

    verb: str
    group: str
    resource: str
    subresource: str = ""
    name: str = ""
    is_own: bool = False

    def __str__(self) -> str:
        resource = f"{self.resource}/{self.subresource}" if self.subresource else self.resource
        group = f".{self.group}" if self.group else ""
        return f"{self.verb} {resource}{group}" + (f" {self.name}" if self.name else "")


def _rights(verbs: str, group: str, resources: str, *, name: str = "", is_own: bool = False) -> list[Right]:
    return [
        Right(
            verb=verb,
            group=group,
            resource=resource.partition("/")[0],
            subresource=resource.partition("/")[2],
            name=name,
            is_own=is_own,
        )
        for resource in resources.split()
        for verb in verbs.split()
    ]


RIGHTS: Final[tuple[Right, ...]] = (
    *_rights("get list watch", "", "pods namespaces"),
    *_rights("list watch", "", "services"),
    *_rights("list watch", "discovery.k8s.io", "endpointslices"),
    *_rights("create", "authentication.k8s.io", "tokenreviews"),
    *_rights("create", "authorization.k8s.io", "subjectaccessreviews"),
    *_rights("create", "events.k8s.io", "events"),
    *_rights("get", "", "configmaps", name=CLIENT_ROOTS_CONFIG_MAP),
    *_rights("list watch", GROUP, "meshpolicies programs"),
    *_rights("patch", GROUP, "meshpolicies/status programs/status"),
    *_rights("create list watch patch delete", "", "configmaps", name=TRUST_CONFIG_MAP),
    *_rights("get", "rbac.authorization.k8s.io", "clusterroles", name=CLUSTER_ROLE),
    *_rights(
        "list watch patch",
        "admissionregistration.k8s.io",
        "mutatingwebhookconfigurations",
        name=WEBHOOK_CONFIGURATION,
    ),
    *_rights("create", "coordination.k8s.io", "leases", is_own=True),
    *_rights("get patch", "coordination.k8s.io", "leases", name=LEASE, is_own=True),
    *_rights("create", "", "secrets", is_own=True),
    *_rights("get", "", "secrets", name=KEK_SECRET, is_own=True),
)


def make_review(right: Right, namespace: str) -> dict[str, Any]:
    """Return the SubjectAccessReview (authorization.k8s.io/v1) that asks whether the CA has a right.

    Arguments:
        namespace: the CA's own.
    """
    attributes = {
        "verb": right.verb,
        "group": right.group,
        "resource": right.resource,
        "subresource": right.subresource,
        "name": right.name,
        "namespace": namespace if right.is_own else "",
    }
    user = f"system:serviceaccount:{namespace}:{SERVICE_ACCOUNT}"
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"]
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": user,
            "groups": groups,
            "resourceAttributes": {key: value for key, value in attributes.items() if value},
        },
    }
