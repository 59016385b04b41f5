"""The API server's answers, and its silence, become values or one of our errors; nothing waits for ever."""

from __future__ import annotations

import asyncio
import json
import ssl
from base64 import b64encode
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from ca.kubernetes.api import client as client_module
from ca.kubernetes.api.client import ClusterClient, ExpiredError, make_error, quote_name
from shared.model.errors import (
    ConflictError,
    InputError,
    NotFoundError,
    RefusedError,
    TouchmarkError,
    UnavailableError,
)
from tests.ca.kubernetes.faking import faked, write_kubeconfig
from tests.kubernetes.harness import pki


class Thing(msgspec.Struct):
    name: str = ""


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (400, InputError),
        (401, RefusedError),
        (403, RefusedError),
        (404, NotFoundError),
        (409, ConflictError),
        (410, ExpiredError),
        (422, InputError),
        (429, UnavailableError),
        (500, UnavailableError),
        (503, UnavailableError),
    ],
)
async def test_each_status_is_one_of_our_errors(tmp_path: Path, code: int, kind: type[TouchmarkError]) -> None:
    async def handle(_request: web.Request) -> web.Response:
        return web.json_response({"kind": "Status", "message": "because", "code": code}, status=code)

    async with faked(tmp_path, handle) as client:
        with pytest.raises(kind, match=f"{code} to GET /thing: because") as caught:
            await client.get("/thing", Thing)
    assert type(caught.value) is kind is type(make_error(code, "because", "GET /thing"))


async def test_a_request_carries_token_query_and_body(tmp_path: Path) -> None:
    seen: list[tuple[str, str, str, str, object]] = []

    async def handle(request: web.Request) -> web.Response:
        body = await request.text()
        kind, who = request.headers["Content-Type"], request.headers["Authorization"]
        seen.append((request.method, request.path_qs, kind, who, json.loads(body) if body else None))
        return web.json_response({"name": "made", "unknown": {"fields": "are skipped"}})

    async with faked(tmp_path, handle) as client:
        assert await client.get("/a", Thing, query={"limit": "5", "continue": "a b"}) == Thing(name="made")
        await client.post("/b", Thing(name="new"), Thing)
        await client.put("/b/c", {"name": "other"}, Thing)
        await client.patch("/b/c", {"name": "other"}, Thing)
        await client.apply("/b/c", {"name": "other"}, Thing)
        await client.delete("/b/c")
        assert client.clock_skew_s is not None and abs(client.clock_skew_s) <= 60
    assert [(method, path, kind) for method, path, kind, _, _ in seen] == [
        ("GET", "/a?limit=5&continue=a+b", "application/json"),
        ("POST", "/b", "application/json"),
        ("PUT", "/b/c", "application/json"),
        ("PATCH", "/b/c?fieldManager=touchmark", "application/merge-patch+json"),
        ("PATCH", "/b/c?fieldManager=touchmark&force=true", "application/apply-patch+yaml"),
        ("DELETE", "/b/c", "application/json"),
    ]
    assert [body for _, _, _, _, body in seen[1:3]] == [{"name": "new"}, {"name": "other"}]
    assert {who for _, _, _, who, _ in seen} == {"Bearer the-token"}


async def test_silence_ends_in_time(tmp_path: Path) -> None:
    async def handle(_request: web.Request) -> web.Response:
        await asyncio.sleep(5)
        return web.Response()

    async with faked(tmp_path, handle) as client:
        with pytest.raises(UnavailableError, match="doesn't answer in time"):
            await client.get("/a", Thing, deadline_s=0.1)
        with pytest.raises(UnavailableError, match="doesn't answer in time"):
            async with client.follow("/a", query={}, idle_s=5, deadline_s=0.1):
                pass


async def test_nobody_there_is_unavailable(tmp_path: Path) -> None:
    client = await ClusterClient.open(write_kubeconfig(tmp_path / "k", "http://127.0.0.1:1"))
    try:
        with pytest.raises(UnavailableError, match="can't be reached"):
            await client.version()
    finally:
        await client.close()


async def test_an_answer_that_is_too_large_or_no_json_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def handle(request: web.Request) -> web.Response:
        return web.Response(text="{" * (2000 if request.path == "/large" else 3))

    monkeypatch.setattr(client_module, "MAX_ANSWER_BYTES", 1000)
    async with faked(tmp_path, handle) as client:
        with pytest.raises(UnavailableError, match="larger than"):
            await client.get("/large", Thing)
        with pytest.raises(UnavailableError, match="can't be read"):
            await client.get("/small", Thing)


async def test_a_watch_gives_whole_lines_whatever_arrives_together(tmp_path: Path) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for part in (b'{"a"', b":1}\n{", b'"b":2}\n\n{"c":3}\n'):
            await response.write(part)
            await asyncio.sleep(0.02)
        return response

    async with faked(tmp_path, handle) as client, client.follow("/w", query={"watch": "1"}, idle_s=60) as lines:
        assert [line async for line in lines] == [b'{"a":1}', b'{"b":2}', b'{"c":3}']


async def test_a_silent_watch_and_an_endless_line_are_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"x" * 2000 if request.path == "/endless" else b"")
        await asyncio.sleep(2)
        return response

    monkeypatch.setattr(client_module, "MAX_LINE_BYTES", 1000)
    async with faked(tmp_path, handle) as client:
        for path, said, idle_s in (("/endless", "larger than", 60.0), ("/silent", "in time", 0.2)):
            with pytest.raises(UnavailableError, match=said):
                async with client.follow(path, query={}, idle_s=idle_s) as lines:
                    async for _ in lines:
                        pass


async def test_a_configuration_that_cannot_be_used_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(InputError, match="the pod's service account can't be used"):
        await ClusterClient.open(None)
    (tmp_path / "broken").write_text("{")
    for name in ("missing", "broken"):
        with pytest.raises(InputError, match=name):
            await ClusterClient.open(tmp_path / name)


def test_no_name_leads_elsewhere_in_a_path() -> None:
    assert quote_name("../secrets?x") == "..%2Fsecrets%3Fx"


async def test_nothing_stays_open_behind_a_watch_that_is_broken_off(tmp_path: Path) -> None:
    """Its TLS connection closes when the server has answered; an event loop that ended before left its socket open."""
    authority = pki.ClusterCA()
    pair = authority.issue("server", names=["127.0.0.1"])
    (tmp_path / "server.pem").write_bytes(pair.certificate + pair.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{}\n\r\n")
        await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        address = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", address)
        document = json.loads(kubeconfig.read_text())
        document["clusters"][0]["cluster"]["certificate-authority-data"] = b64encode(authority.certificate).decode()
        kubeconfig.write_text(json.dumps(document))
        client = await ClusterClient.open(kubeconfig)
        async with client.follow("/w", query={"watch": "1"}, idle_s=600, deadline_s=60) as lines:
            assert await anext(lines) == b"{}"
            [opened] = client._transport.sockets._sockets
        await client.close()
        assert opened.fileno() == -1
