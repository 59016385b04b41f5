"""Which role each admin request needs (``ca.api.access.roles``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from ca.api.access.roles import NEEDS, OPEN, OPERATE_GROUP, VIEW_GROUP, Need, Role, find_need
from ca.api.admin.application import make_admin_application
from shared.model.errors import IdentityError
from tests.ca.running import running_ca

ROLES = Path(__file__).parents[4] / "manifests" / "base" / "roles.yaml"
CA = Need(role=Role.CA_OPERATOR, resource="ca")


async def test_each_route_is_in_the_table_and_the_table_has_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[web.Application] = []

    def keep(*endpoints: Any, **options: Any) -> web.Application:
        made.append(make_admin_application(*endpoints, **options))
        return made[0]

    monkeypatch.setattr("ca.runtime.serve.make_admin_application", keep)
    async with running_ca(tmp_path):
        pass
    routes = {
        (route.method, route.resource.canonical)
        for route in made[0].router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    assert {route for route in routes if route[1] not in OPEN} == set(NEEDS)
    assert {path for method, path in routes if method == "GET"} >= OPEN


def find(method: str, path: str, names: dict[str, str] | None = None, **query: str) -> Need | None:
    return find_need(method, path, names or {}, query)


def test_what_is_not_in_the_table_needs_a_ca_operator() -> None:
    assert find("GET", "/v1/new") == find("DELETE", "/v1/status") == find("POST", "/readyz") == CA
    assert find("GET", "/readyz") is None and find("HEAD", "/metrics") is None


def test_no_reader_changes_anything() -> None:
    changing = {key for key, need in NEEDS.items() if key[0] != "GET" and need.role is Role.READER}
    assert changing == {("POST", "/v1/namespaces/{ns}/readiness"), ("POST", "/v1/policies/difference")}
    assert all(need.role is Role.READER for (method, _), need in NEEDS.items() if method == "GET")


def test_a_request_of_one_namespace_needs_the_role_there() -> None:
    def reader(resource: str, namespace: str) -> Need:
        return Need(role=Role.READER, resource=resource, namespace=namespace)

    assert find("GET", "/v1/namespaces/{namespace}/edges", {"namespace": "shop"}) == reader("edges", "shop")
    assert find("HEAD", "/v1/namespaces/{ns}", {"ns": "shop"}) == reader("namespaces", "shop")
    assert find("GET", "/v1/decisions", namespace="shop", workload="bank/web") == reader("decisions", "shop")
    assert find("GET", "/v1/decisions", workload="bank/web") == reader("decisions", "bank")
    assert find("GET", "/v1/decisions", namespace="") == find("GET", "/v1/decisions") == reader("decisions", "")
    # A parameter that the handler doesn't narrow by narrows nothing.
    assert find("GET", "/v1/sidecars", namespace="shop") == reader("sidecars", "")
    mode = find("PUT", "/v1/namespaces/{ns}/mode", {"ns": "shop"})
    assert mode == Need(role=Role.NAMESPACE_OPERATOR, resource="namespaces", namespace="shop")


@pytest.mark.parametrize("query", [{"namespace": "*"}, {"namespace": "a/b"}, {"workload": "web"}])
def test_what_is_no_namespace_is_refused(query: dict[str, str]) -> None:
    with pytest.raises(IdentityError):
        find_need("GET", "/v1/decisions", {}, query)


def test_the_manifests_roles_grant_what_the_table_asks_for() -> None:
    roles = {role["metadata"]["name"]: role for role in yaml.safe_load_all(ROLES.read_text(encoding="utf-8"))}
    groups = {VIEW_GROUP, OPERATE_GROUP}

    def granted(name: str) -> set[tuple[str, str, str]]:
        return {
            (verb, resource, group)
            for rule in roles[name]["rules"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
            if group in groups
        }

    asked = {(need.verb, need.resource, need.group) for need in NEEDS.values()}
    assert granted("touchmark-operator") == asked
    # Who administers is seen by those who administer.
    assert granted("touchmark-view") == {each for each in asked if each[2] == VIEW_GROUP} - {
        ("get", "audit", VIEW_GROUP)
    }
    assert granted("touchmark-edit") == {("update", "namespaces", OPERATE_GROUP)}
    assert roles["touchmark-view"]["metadata"]["labels"] == {"rbac.authorization.k8s.io/aggregate-to-view": "true"}


def test_a_need_says_itself_as_rbac_does() -> None:
    need = find("GET", "/v1/decisions", namespace="shop")
    assert str(need) == "get decisions.view.touchmark.dev in namespace shop"
    assert str(CA) == "update ca.operate.touchmark.dev"
