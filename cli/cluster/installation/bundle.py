"""The objects of an installation, as ``python -m scripts.chart`` has made them from ``manifests/``. Reads this package.

Belongs here: their files, their kinds, and in which order they are made. Doesn't: what is chosen in them
(``rendering.py``).
"""

from __future__ import annotations

from importlib import resources
from typing import Final

from cli.cluster.connection import (
    ADMISSION_BINDINGS,
    ADMISSION_POLICIES,
    CONFIG_MAPS,
    DEFINITIONS,
    NAMESPACES,
    NETWORK_POLICIES,
    SERVICE_ACCOUNTS,
    SERVICES,
    WEBHOOKS,
    Kind,
    Object,
)

PART_OF: Final = "app.kubernetes.io/part-of"
OURS: Final = f"{PART_OF}=touchmark"
BUDGETS: Final = Kind(group="policy", version="v1", plural="poddisruptionbudgets")
CLAIMS: Final = Kind(group="", version="v1", plural="persistentvolumeclaims")
DEPLOYMENTS: Final = Kind(group="apps", version="v1", plural="deployments")
LEASES: Final = Kind(group="coordination.k8s.io", version="v1", plural="leases")
SECRETS: Final = Kind(group="", version="v1", plural="secrets")
CONSTRAINTS: Final = Kind(group="security.openshift.io", version="v1", plural="securitycontextconstraints")
_ROLES_GROUP: Final = "rbac.authorization.k8s.io"

# In the order in which they are made: what others need comes first, and the webhook, which refuses pods that ask for a
# sidecar until its CA answers, comes last.
KINDS: Final[dict[str, Kind]] = {
    "Namespace": NAMESPACES,
    "CustomResourceDefinition": DEFINITIONS,
    "ServiceAccount": SERVICE_ACCOUNTS,
    "ClusterRole": Kind(group=_ROLES_GROUP, version="v1", plural="clusterroles"),
    "ClusterRoleBinding": Kind(group=_ROLES_GROUP, version="v1", plural="clusterrolebindings"),
    "Role": Kind(group=_ROLES_GROUP, version="v1", plural="roles"),
    "RoleBinding": Kind(group=_ROLES_GROUP, version="v1", plural="rolebindings"),
    "ConfigMap": CONFIG_MAPS,
    "Service": SERVICES,
    "NetworkPolicy": NETWORK_POLICIES,
    "PersistentVolumeClaim": CLAIMS,
    "PodDisruptionBudget": BUDGETS,
    "ValidatingAdmissionPolicy": ADMISSION_POLICIES,
    "ValidatingAdmissionPolicyBinding": ADMISSION_BINDINGS,
    "Deployment": DEPLOYMENTS,
    "MutatingWebhookConfiguration": WEBHOOKS,
}
CLUSTER_SCOPED: Final = frozenset(
    {
        "Namespace",
        "CustomResourceDefinition",
        "ClusterRole",
        "ClusterRoleBinding",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
        "MutatingWebhookConfiguration",
    }
)


def load_objects(*, has_database: bool) -> list[Object]:
    """Return the objects with the manifests' own values, in the order in which they are made.

    Arguments:
        has_database: of ``overlays/ha`` (PostgreSQL) instead of ``overlays/single`` (SQLite on a volume).
    """
    import yaml

    loader: type[yaml.SafeLoader] | type[yaml.CSafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    place = resources.files(__package__) / "objects"
    found: list[Object] = []
    for name in ("common.yaml", "several.yaml" if has_database else "single.yaml"):
        found += yaml.load_all((place / name).read_text(encoding="utf-8"), loader)
    order = list(KINDS)
    return sorted(found, key=lambda each: (order.index(each["kind"]), each["metadata"]["name"]))
