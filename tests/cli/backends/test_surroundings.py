"""What surrounds a policy is asked as far as this user may see it."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from cli.backends.surroundings import (
    add_documents,
    list_service_accounts,
    list_workloads_of,
    look_around_cluster,
    read_states,
)
from cli.cluster.connection import NAMESPACES, SERVICE_ACCOUNTS, SERVICES, Cluster, Kind
from shared.model.errors import RefusedError
from shared.model.policy.documents import parse_documents

PROGRAM = """\
apiVersion: touchmark.dev/v1alpha1
kind: Program
metadata: {name: web, namespace: new}
spec: {serviceAccount: web, digests: ["sha256:DIGEST"]}
---
apiVersion: touchmark.dev/v1alpha1
kind: MeshPolicy
metadata: {name: default, namespace: new}
spec: {}
""".replace("DIGEST", "ab" * 32)


class FewKinds:
    """An API server on which this user may list some kinds."""

    def __init__(self, answers: dict[Kind, list[dict[str, Any]]]) -> None:
        self._answers = answers

    async def list(self, kind: Kind, namespace: str = "") -> list[dict[str, Any]]:
        if kind not in self._answers:
            raise RefusedError("you may not")
        return [each for each in self._answers[kind] if namespace in ("", each["metadata"].get("namespace"))]


def test_services_accounts_and_namespaces_of_a_cluster() -> None:
    objects: dict[Kind, list[dict[str, Any]]] = {
        NAMESPACES: [{"metadata": {"name": "shop"}}],
        SERVICE_ACCOUNTS: [{"metadata": {"namespace": "shop", "name": "web"}}],
        SERVICES: [
            {"metadata": {"namespace": "shop", "name": "db"}, "spec": {"clusterIPs": ["198.18.9.9", "2001:db8::9"]}},
            {"metadata": {"namespace": "shop", "name": "headless"}, "spec": {"clusterIP": "None"}},
        ],
    }
    around = asyncio.run(look_around_cluster(cast("Cluster", FewKinds(objects)), ()))
    assert (around.namespaces, around.workloads) == (frozenset({"shop"}), frozenset({"shop/web"}))
    assert around.services == {"198.18.9.9": "shop/db", "2001:db8::9": "shop/db"}
    documents = parse_documents(PROGRAM, "p.yaml")
    with_new = add_documents(around, documents)
    assert with_new.namespaces == frozenset({"shop", "new"})
    assert set(with_new.approvals or ()) == {"new/web"}
    assert [state.namespace for state in read_states(documents)] == ["new"]


def test_what_may_not_be_listed_is_not_judged_by() -> None:
    around = asyncio.run(look_around_cluster(cast("Cluster", FewKinds({})), None))
    assert (around.namespaces, around.workloads, around.services, around.approvals) == (None, None, {}, None)
    assert list_workloads_of(around, "shop") is None
    assert asyncio.run(list_service_accounts(cast("Cluster", FewKinds({})), "shop")) is None


def test_the_workloads_of_one_namespace() -> None:
    accounts: list[dict[str, Any]] = [
        {"metadata": {"namespace": "shop", "name": "web"}},
        {"metadata": {"namespace": "bank", "name": "teller"}},
    ]
    cluster = cast("Cluster", FewKinds({SERVICE_ACCOUNTS: accounts}))
    assert asyncio.run(list_service_accounts(cluster, "shop")) == frozenset({"web"})
    around = asyncio.run(look_around_cluster(cluster, None))
    assert list_workloads_of(around, "bank") == frozenset({"teller"})
