"""Faults that a real API server can't be made to show; the rest is tests/kubernetes/test_admission_objects.py."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from ca.kubernetes.api.client import ClusterClient
from ca.kubernetes.webhook_objects import webhook_config
from ca.kubernetes.webhook_objects.webhook_config import (
    SETTLED_S,
    Configuration,
    WebhookConfiguration,
    trim_configuration,
)
from ca.metrics import Metrics
from shared.model.injection.json_patch import Operation, apply_patch
from tests.ca.kubernetes.faking import faked
from tests.ca.running import eventually

BUNDLE = base64.b64encode(b"roots").decode()


def make_object(*bundles: str, version: str = "1") -> dict[str, Any]:
    hooks = [{"name": f"h{n}", "clientConfig": {"caBundle": bundle}} for n, bundle in enumerate(bundles)]
    return {"metadata": {"name": "touchmark", "resourceVersion": version}, "webhooks": hooks}


def read(document: dict[str, Any]) -> Configuration:
    return trim_configuration(msgspec.convert(document, Configuration))


@contextlib.asynccontextmanager
async def running(client: ClusterClient, *, leads: bool = True) -> Any:
    keeper = WebhookConfiguration(client, read_roots=lambda: "roots", is_leader=lambda: leads, metrics=Metrics())
    task = asyncio.create_task(keeper.run())
    try:
        yield keeper
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_only_what_differs_is_written_and_only_if_nobody_else_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_config, "_FIRST_BACKOFF_S", 0.01)
    there = make_object("old", BUNDLE, version="2")
    patches: list[Any] = []

    async def serve(request: web.Request) -> web.StreamResponse:
        nonlocal there
        assert (request.method, request.content_type) == ("PATCH", "application/json-patch+json")
        test, *operations = await request.json()
        patches.append((test, operations))
        if test["value"] != there["metadata"]["resourceVersion"]:
            return web.json_response({"message": "the test failed"}, status=422)
        there = apply_patch(there, [Operation(**each) for each in operations])
        return web.json_response(there)

    async with faked(tmp_path, serve) as client, running(client) as keeper:
        keeper.replace([read({**there, "metadata": {"resourceVersion": "1"}})])
        await eventually(lambda: len(patches) > 0)
        assert not keeper.is_current
        keeper.apply(read(there))
        await eventually(lambda: keeper.is_current)
        assert patches[-1][1] == [{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": BUNDLE}]
        written = len(patches)
        keeper.note_bundle()
        await asyncio.sleep(0.1)
        assert len(patches) == written, "what is current is left alone"


async def test_what_the_watch_told_during_a_write_is_newer_than_the_answer(tmp_path: Path) -> None:
    """It was deleted and made again before the answer came: that is written, and the answer isn't believed."""
    written: list[str] = []
    may_answer = asyncio.Event()

    async def serve(request: web.Request) -> web.StreamResponse:
        written.append((await request.json())[0]["value"])
        await may_answer.wait()
        return web.json_response(make_object(BUNDLE, version=f"{written[-1]}0"))

    async with faked(tmp_path, serve) as client, running(client) as keeper:
        keeper.apply(read(make_object("old", version="1")))
        await eventually(lambda: written == ["1"])
        keeper.remove(read(make_object(BUNDLE, version="10")))
        keeper.apply(read(make_object("old", version="2")))
        may_answer.set()
        await eventually(lambda: keeper.is_current)
        assert written == ["1", "2"]


async def test_a_failure_is_tried_again_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook_config, "_FIRST_BACKOFF_S", 0.01)
    answers = iter([500, 503, 200])

    async def serve(_request: web.Request) -> web.StreamResponse:
        return web.json_response(make_object(BUNDLE), status=next(answers))

    async with faked(tmp_path, serve) as client, running(client) as keeper:
        keeper.apply(read(make_object("old")))
        await eventually(lambda: keeper.is_current)


async def test_who_does_not_lead_leaves_it_alone_and_a_deleted_one_is_nobodys(tmp_path: Path) -> None:
    async def serve(_request: web.Request) -> web.StreamResponse:
        raise AssertionError("nobody asks")

    async with faked(tmp_path, serve) as client:
        async with running(client, leads=False) as keeper:
            keeper.apply(read(make_object("old")))
            await asyncio.sleep(0.05)
            assert len(keeper) == 1
        async with running(client) as keeper:
            keeper.remove(read(make_object("old")))
            keeper.note_bundle()
            await asyncio.sleep(0.05)
            assert len(keeper) == 0
            assert not keeper.is_current


async def test_a_root_is_known_once_it_has_been_in_every_bundle_for_a_while(tmp_path: Path) -> None:
    async def serve(_request: web.Request) -> web.StreamResponse:
        raise AssertionError("nobody asks")

    old, new = b"old", b"new"

    def bundle(*roots: bytes) -> str:
        return base64.b64encode("".join(map(ssl.DER_cert_to_PEM_cert, roots)).encode()).decode()

    now = 1000.0
    async with faked(tmp_path, serve) as client:
        keeper = WebhookConfiguration(
            client, read_roots=lambda: "", is_leader=lambda: False, metrics=Metrics(), clock=lambda: now
        )
        assert keeper.has_root(new) and keeper.is_known(new), "without a configuration nobody asks"
        keeper.replace([read(make_object(bundle(old), bundle(old)))])
        now += SETTLED_S
        assert keeper.is_known(old)
        keeper.apply(read(make_object(bundle(old, new), bundle(old))))
        assert not keeper.has_root(new)
        keeper.apply(read(make_object(bundle(old, new), bundle(old, new))))
        assert keeper.has_root(new) and not keeper.is_known(new)
        now += SETTLED_S
        assert keeper.is_known(new) and keeper.is_known(old)
        for damaged in ("", "%%%", base64.b64encode(b"\xff").decode()):
            keeper.apply(read(make_object(bundle(old, new), damaged)))
            assert not keeper.has_root(old) and not keeper.is_known(old)
        keeper.apply(read(make_object()))
        assert not keeper.has_root(old), "a configuration without webhooks is not ours"
