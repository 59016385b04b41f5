"""Requests to the API server: rights, pages, deadlines, and errors that say what to do."""

from __future__ import annotations

import asyncio
import time

import pytest
from aiohttp import web

from cli.cluster import connection
from cli.cluster.connection import MESH_POLICIES, PODS, connect, is_missing
from cli.cluster.faults import Action, ForbiddenError, NotInstalledError, UnreachableError
from shared.model.errors import UnavailableError
from tests.cli.fake_api import FakeAPI, make_pod, make_status

FORWARD = Action(verb="create", group="", resource="pods/portforward", namespace="x", name="p")


def test_paths_are_those_of_the_api() -> None:
    assert PODS.path("a", "b", "portforward") == "/api/v1/namespaces/a/pods/b/portforward"
    assert MESH_POLICIES.path() == "/apis/touchmark.dev/v1alpha1/meshpolicies"
    assert PODS.path("a", "../b") == "/api/v1/namespaces/a/pods/..%2Fb"


async def test_a_list_is_read_to_its_last_page_with_the_user_s_token(api: FakeAPI) -> None:
    first = {"items": [make_pod("a")], "metadata": {"continue": "more"}}
    api.answers["GET /api/v1/pods"] = [first, {"items": [make_pod("b")], "metadata": {}}]
    async with connect() as cluster:
        pods = await cluster.list(PODS, labelSelector="x=y")
        assert abs(cluster.server_time - time.time()) < 60
    assert [pod["metadata"]["name"] for pod in pods] == ["a", "b"]
    assert [query for _, query, _ in api.requests] == [
        {"limit": "500", "labelSelector": "x=y"},
        {"limit": "500", "labelSelector": "x=y", "continue": "more"},
    ]
    assert {headers["Authorization"] for headers in api.headers} == {"Bearer secret-token"}


async def test_a_list_without_an_end_is_refused(api: FakeAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_OBJECTS", 3)
    api.answers["GET /api/v1/pods"] = {"items": [make_pod("a")] * 2, "metadata": {"continue": "more"}}
    async with connect() as cluster:
        with pytest.raises(UnavailableError, match="more than 3 pods"):
            await cluster.list(PODS)


async def test_find_tells_a_missing_object_from_missing_resources(api: FakeAPI) -> None:
    async with connect() as cluster:
        assert await cluster.find(MESH_POLICIES, "shop", "default") is None
        api.answers["GET /apis/touchmark.dev/v1alpha1/namespaces/shop/meshpolicies/default"] = web.Response(
            status=404, body=b"404 page not found\n"
        )
        with pytest.raises(NotInstalledError) as caught:
            await cluster.find(MESH_POLICIES, "shop", "default")
    assert "kubectl apply -k" in caught.value.hint
    assert is_missing(caught.value)


async def test_apply_is_strict_and_names_its_manager(api: FakeAPI) -> None:
    path = "/apis/touchmark.dev/v1alpha1/namespaces/shop/meshpolicies/default"
    api.answers[f"PATCH {path}"] = {"kind": "MeshPolicy"}
    value = {"metadata": {"name": "default", "namespace": "shop"}}
    async with connect() as cluster:
        await cluster.apply(MESH_POLICIES, value, manager="touchmark", dry_run=True)
        await cluster.apply(MESH_POLICIES, value, manager="touchmark", force=True)
    assert [query for _, query, _ in api.requests] == [
        {"fieldManager": "touchmark", "fieldValidation": "Strict", "dryRun": "All"},
        {"fieldManager": "touchmark", "fieldValidation": "Strict", "force": "true"},
    ]
    assert api.headers[0]["Content-Type"] == "application/apply-patch+yaml"


async def test_a_server_that_is_silent_or_away_is_unreachable(api: FakeAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    async def wait(_request: web.Request) -> web.Response:
        await asyncio.sleep(2)
        return web.Response()

    monkeypatch.setattr(connection, "REQUEST_DEADLINE_S", 0.2)
    api.answers["GET /version"] = [web.Response(body=b"<html>a proxy</html>"), wait]
    async with connect() as cluster:
        with pytest.raises(UnreachableError, match="like an API server"):
            await cluster.get_path("/version")
        with pytest.raises(UnreachableError, match="can't be reached within"):
            await cluster.get_path("/version")
    async with connect() as cluster:
        cluster.access = type(cluster.access)(server="http://127.0.0.1:9", context="fake", tls=None)
        with pytest.raises(UnreachableError, match=r"http://127\.0\.0\.1:9 \(context fake\) can't be reached"):
            await cluster.get_path("/version")


async def test_a_websocket_that_is_refused_says_which_right_is_missing(api: FakeAPI) -> None:
    api.forward_status = 403
    async with connect() as cluster:
        with pytest.raises(ForbiddenError, match="you may not create pods/portforward 'p' in namespace x"):
            await cluster.open_websocket(
                "/api/v1/namespaces/x/pods/p/portforward", {}, protocol="v4", action=FORWARD, max_message_bytes=100
            )


async def test_a_websocket_of_another_protocol_is_closed(api: FakeAPI) -> None:
    async with connect() as cluster:
        with pytest.raises(UnavailableError, match="doesn't speak v9"):
            await cluster.open_websocket(
                "/api/v1/namespaces/x/pods/p/portforward", {}, protocol="v9", action=FORWARD, max_message_bytes=100
            )


async def test_an_answer_that_is_an_error_is_explained(api: FakeAPI) -> None:
    api.answers["GET /api/v1/pods"] = make_status(403, "Forbidden", 'User "u" cannot list resource "pods"')
    async with connect() as cluster:
        with pytest.raises(ForbiddenError, match="you may not list pods"):
            await cluster.list(PODS)
