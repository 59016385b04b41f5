"""A mode that no MeshPolicy says any more is visible in an object: also of a namespace that was made again."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from ca.kubernetes.webhook_objects import mode_notes, trust_config
from shared.model.kubernetes.contract import MODE_IN_FORCE, MODE_KEPT, SYSTEM_NAMESPACE, TRUST_CONFIG_MAP
from shared.model.policy.rules import Mode
from tests.ca.running import eventually
from tests.kubernetes.cluster_objects import Objects, running_ca_in_cluster
from tests.kubernetes.harness.api_server import ApiServer
from tests.kubernetes.test_crds import placed
from tests.kubernetes.webhook_ca import make_owner
from tests.shared.model.policy.object_cases import policy


async def test_what_stays_in_force_without_its_object_shows_in_another(
    api_server: ApiServer, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust_config, "CHECK_INTERVAL_S", 0.1)
    monkeypatch.setattr(mode_notes, "CHECK_INTERVAL_S", 0.1)
    api_server.install_definitions()
    api_server.create_namespace(SYSTEM_NAMESPACE)
    make_owner(api_server)

    async def shows(mode: Mode, *, is_kept: bool) -> bool:
        found = await asyncio.to_thread(api_server.kubectl.get, "configmaps", "-n", namespace)
        mine = [each for each in found["items"] if each["metadata"]["name"] == TRUST_CONFIG_MAP]
        notes = mine[0]["metadata"].get("annotations", {}) if mine else {}
        return notes.get(MODE_IN_FORCE) == mode and (MODE_KEPT in notes) == is_kept and "roots.pem" in mine[0]["data"]

    async def put(mode: Mode) -> None:
        await asyncio.to_thread(api_server.kubectl.apply, placed(policy({"mode": str(mode)}), namespace))

    options: dict[str, Any] = {"webhook_host": "127.0.0.1", "webhook_port": 0}
    async with (
        running_ca_in_cluster(tmp_path, api_server.admin, **options),
        Objects.of(api_server, namespace) as objects,
    ):
        await objects.create_pod("web-0", "198.18.0.77")
        await eventually(lambda: shows(Mode.PERMISSIVE, is_kept=False), deadline_s=60)
        await put(Mode.EXPLICIT)
        await eventually(lambda: shows(Mode.EXPLICIT, is_kept=False), deadline_s=60)
        await asyncio.to_thread(api_server.kubectl, "delete", "mp", "default", "-n", namespace)
        await eventually(lambda: shows(Mode.EXPLICIT, is_kept=True), deadline_s=60)

        await objects.delete_pod("web-0")
        uid = await asyncio.to_thread(make_again, api_server, namespace)
        await objects.create_pod("web-0", "198.18.0.77")
        await eventually(lambda: shows(Mode.EXPLICIT, is_kept=True), deadline_s=60)
        assert api_server.kubectl.get("namespace", namespace)["metadata"]["uid"] != uid
        await put(Mode.PERMISSIVE)
        await eventually(lambda: shows(Mode.PERMISSIVE, is_kept=False), deadline_s=60)
        await asyncio.to_thread(api_server.kubectl, "delete", "mp", "default", "-n", namespace)


def make_again(api_server: ApiServer, namespace: str) -> str:
    """Delete a namespace and make it anew, as its controller, which isn't here, would; return the UID that it had."""
    found = api_server.kubectl.get("namespace", namespace)
    api_server.kubectl("delete", "configmap", TRUST_CONFIG_MAP, "-n", namespace, "--ignore-not-found")
    api_server.kubectl("delete", "namespace", namespace, "--wait=false")
    found["spec"] = {"finalizers": []}
    del found["metadata"]["resourceVersion"]
    path = f"/api/v1/namespaces/{namespace}/finalize"
    api_server.kubectl("replace", "--raw", path, "-f", "-", stdin=json.dumps(found))
    api_server.create_namespace(namespace)
    return str(found["metadata"]["uid"])
