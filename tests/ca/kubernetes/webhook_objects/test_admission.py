from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from ca.authority.authorities import Authorities
from ca.kubernetes.api.client import ClusterClient
from ca.kubernetes.webhook_objects import admission
from ca.kubernetes.webhook_objects.admission import Admission, Namespaces, make_admission, run_admission
from ca.metrics import Metrics
from shared.model.errors import UnavailableError
from shared.runtime.tasks import Tasks
from tests.ca.admission.reviews import apply_response, make_review, read_response
from tests.ca.kubernetes.faking import faked
from tests.ca.running import running_ca
from tests.shared.model.injection.golden_injection import OPTIONS
from tests.shared.model.injection.pods import make_pod

SERVICE = "touchmark-ca.touchmark-system.svc"


def make(
    client: ClusterClient, authorities: Authorities, *, list_needing: Callable[[], set[str] | None] = lambda: None
) -> Admission:
    admission = make_admission(
        client,
        options=OPTIONS,
        read_bundle=authorities.bundle,
        list_needing=list_needing,
        judge_policy=lambda _document: asyncio.sleep(0),
        list_modes=lambda: asyncio.sleep(0, {}),
        find_policy=lambda _namespace: None,
        knows_policies=lambda: True,
        is_leader=lambda: True,
        metrics=Metrics(),
    )
    authorities.on_change(admission.note_bundle)
    return admission


async def answer_little(request: web.Request) -> web.StreamResponse:
    """An API server that has nothing, and takes everything."""
    if request.method == "PATCH":
        return web.json_response(await request.json())
    if request.query.get("watch"):
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(30)
        return response
    return web.json_response({"metadata": {"resourceVersion": "1", "labels": {"a": "b"}, "uid": "u"}, "items": []})


async def test_the_webhook_answers_under_the_services_name_with_a_chain_to_the_root(tmp_path: Path) -> None:
    """As the API server sees it: the name that it dials, and nothing but the roots of ``caBundle``."""
    failed: list[str] = []
    tasks = Tasks(lambda name, _error: failed.append(name))
    async with (
        faked(tmp_path, answer_little) as client,
        running_ca(tmp_path, names=(SERVICE,)) as services,
        run_admission(
            make(client, services.authorities),
            tasks,
            host="127.0.0.1",
            port=0,
            context=services.server_certificate.context,
        ) as listen,
        aiohttp.ClientSession() as session,
    ):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=services.authorities.bundle().roots[0])
        url = f"https://{listen}/v1/inject"
        review = make_review(make_pod())
        async with session.post(url, json=review, ssl=context, server_hostname=SERVICE) as answer:
            response = read_response(await answer.read())
        assert len(apply_response(make_pod(), response)["spec"]["initContainers"]) == 2
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await session.post(url, json={}, ssl=context, server_hostname="other.example")
        port = int(listen.rpartition(":")[2])
        with pytest.raises(UnavailableError, match="can't listen"):
            context = services.server_certificate.context
            again = make(client, services.authorities)
            async with run_admission(again, tasks, host="127.0.0.1", port=port, context=context):
                pass
    assert not failed
    assert len(tasks) == 0, "what was started has ended"


NAMESPACE = {"labels": {"team": "shop"}, "annotations": {"touchmark.dev/log-level": "debug", "other": "x"}}


async def test_a_namespace_is_asked_for_once_in_a_moment_and_what_it_said_last_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "MAX_NAMESPACES", 2)
    asked: list[str] = []
    is_down = False

    async def serve(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        answers: dict[str, tuple[int, Any]] = {"/api/v1/namespaces/gone": (404, {"message": "gone"})}
        status, body = answers.get(request.path, (200, {"metadata": NAMESPACE}))
        if is_down:
            status = 503
        return web.json_response(body, status=status)

    async with faked(tmp_path, serve) as client:
        namespaces = Namespaces(client)
        for _ in range(2):
            found = await namespaces.find("a")
            assert found is not None
            assert found.labels == {"team": "shop"}
            assert found.annotations == {"touchmark.dev/log-level": "debug"}
        assert asked == ["/api/v1/namespaces/a"]
        assert await namespaces.find("gone") is None
        for name in ("b", "c"):
            await namespaces.find(name)
        assert len(namespaces._known) == 2
        monkeypatch.setattr(admission, "NAMESPACE_AGE_S", 0.0)
        await namespaces.find("c")
        assert asked.count("/api/v1/namespaces/c") == 2
        is_down = True
        found = await namespaces.find("c")
        assert found is not None and found.labels == {"team": "shop"}
