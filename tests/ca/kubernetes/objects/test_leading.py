"""The leader's work begins once everything is known, and its end gives the Lease back.

With a real API server: tests/kubernetes/test_policy_objects.py.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiohttp import web

from ca.kubernetes.api import lease as lease_module
from ca.kubernetes.objects.leading import Leading, run_leading
from tests.ca.kubernetes.api.test_lease import Leases
from tests.ca.kubernetes.faking import faked
from tests.ca.running import eventually, running_ca
from tests.shared.model.policy.object_cases import policy, program


class Server(Leases):
    """Serves the Lease and, once they are installed, the two collections; a watch says nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.is_installed = False
        self.patched: list[str] = []

    async def serve(self, request: web.Request) -> web.StreamResponse:
        if "/leases" in request.path:
            return await super().serve(request)
        if request.method == "PATCH":
            self.patched.append(request.path)
            return web.json_response({})
        if not self.is_installed:
            return web.json_response({"message": "no such resource"}, status=404)
        if "watch" in request.query:
            response = web.StreamResponse()
            await response.prepare(request)
            await asyncio.sleep(60)
            return response
        document = policy({"mode": "explicit"}) if request.path.endswith("meshpolicies") else program()
        document["metadata"] |= {"uid": "u1", "generation": 1}
        return web.json_response({"metadata": {"resourceVersion": "1"}, "items": [document]})


async def test_nothing_is_deleted_before_everything_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "RETRY_S", 0.1)
    monkeypatch.setattr(lease_module, "RELEASE_S", 60.0)
    server = Server()
    async with running_ca(tmp_path) as services, faked(tmp_path, server.serve) as client:
        await services.store.namespaces.put_policy("bank", rules=(), group_label="team")
        leading = Leading(client, store=services.store, metrics=services.metrics, clock=services.clock)
        async with run_leading(leading):
            await eventually(lambda: leading.leadership.is_leader)
            await asyncio.sleep(0.3)
            assert (await services.store.namespaces.get_state("bank")).group_label == "team"
            server.is_installed = True
            await eventually(lambda: len(server.patched) == 2, deadline_s=60.0)
            states = {state.namespace: state for state in await services.store.namespaces.list_states()}
            assert states["bank"].group_label == ""
            assert states["shop"].mode.value == "explicit" and len(states["shop"].approvals) == 1
            assert {watch.describe().objects for watch in leading.watches} == {1}
        assert server.holder == ""
