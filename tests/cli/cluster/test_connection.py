"""Requests to the API server: rights, pages, deadlines, and errors that say what to do."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
import ssl
import subprocess
import time
from pathlib import Path

import pytest
from aiohttp import web

from cli.cluster import connection
from cli.cluster.connection import MESH_POLICIES, PODS, connect, is_missing
from cli.cluster.faults import Action, ForbiddenError, NotInstalledError, UnreachableError
from cli.cluster.port_forward import open_forward
from shared.model.errors import UnavailableError
from tests.cli.fake_api import FakeAPI, make_kubeconfig, make_pod, make_status, running_api

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

    api.answers["GET /version"] = [web.Response(body=b"<html>a proxy</html>"), wait]
    async with connect() as cluster:
        with pytest.raises(UnreachableError, match="like an API server"):
            await cluster.get_path("/version")
    monkeypatch.setattr(connection, "REQUEST_DEADLINE_S", 0.2)
    async with connect() as cluster:
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


def make_tls(directory: Path) -> ssl.SSLContext:
    """A server's context with a certificate that signed itself."""
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
            "-subj", "/CN=api", "-keyout", directory / "api.key", "-out", directory / "api.crt",
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "api.crt", directory / "api.key")
    return context


def find_open(port: int) -> list[socket.socket]:
    """Return this process's sockets that are connected to a port of loopback."""
    found = []
    for each in gc.get_objects():
        if type(each) is socket.socket and each.fileno() != -1 and each.family is socket.AF_INET:
            with contextlib.suppress(OSError):
                if each.getpeername()[1] == port:
                    found.append(each)
    return found


def test_nothing_stays_open_behind_a_websocket(tmp_path: Path) -> None:
    """Its TLS connection closes when the server has answered; a command that ended before left its socket open."""
    with running_api(tmp_path, tls=make_tls(tmp_path)) as api, socket.create_server(("127.0.0.1", 0)) as forwarded:
        api.forward_to = forwarded.getsockname()[1]
        config = make_kubeconfig(f"https://127.0.0.1:{api.port}")
        config["clusters"][0]["cluster"]["insecure-skip-tls-verify"] = True
        api.kubeconfig.write_text(json.dumps(config))

        async def use() -> None:
            async with connect(str(api.kubeconfig)) as cluster:
                websocket = await open_forward(cluster, "x", "p")
                await websocket.close()
            assert find_open(api.port) == []

        for _ in range(20):
            asyncio.run(use())
