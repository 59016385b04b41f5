"""What the CA keeps in a cluster for injection follows a bundle with other roots, and goes when nothing needs it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from ca.kubernetes.api.client import ClusterClient
from ca.kubernetes.api.watch import Watch
from ca.kubernetes.webhook_objects import trust_config, webhook_config
from ca.kubernetes.webhook_objects.trust_config import GRACE_S, ConfigMap, TrustConfigMaps, trim_trust
from ca.kubernetes.webhook_objects.webhook_config import Configuration, WebhookConfiguration, trim_configuration
from ca.metrics import Metrics
from shared.model.errors import NotFoundError
from tests.ca.running import eventually
from tests.kubernetes.harness import pki
from tests.kubernetes.harness.api_server import ApiServer
from tests.kubernetes.webhook_ca import make_owner, read_configuration


@dataclass
class Stage:
    """The two keepers with a bundle, a leader and a clock that the test moves."""

    client: ClusterClient
    roots: str
    needing: set[str] | None = field(default_factory=set)
    leads: bool = True
    skipped_s: float = 0.0

    def __post_init__(self) -> None:
        metrics = Metrics()
        self.trust = TrustConfigMaps(
            self.client,
            read_roots=lambda: self.roots,
            list_needing=lambda: self.needing,
            is_leader=lambda: self.leads,
            metrics=metrics,
            clock=lambda: time.monotonic() + self.skipped_s,
        )
        self.configuration = WebhookConfiguration(
            self.client, read_roots=lambda: self.roots, is_leader=lambda: self.leads, metrics=metrics
        )
        self.watches: tuple[Watch[Any, Any], ...] = (
            Watch(self.client, self.trust, name="trust", path=trust_config.PATH, query=trust_config.QUERY,
                  kind=ConfigMap, trim=trim_trust, metrics=metrics),
            Watch(self.client, self.configuration, name="webhook", path=webhook_config.PATH,
                  query=webhook_config.QUERY, kind=Configuration, trim=trim_configuration, metrics=metrics),
        )  # fmt: skip

    def change_roots(self) -> None:
        self.roots = make_root()
        self.trust.note_bundle()
        self.configuration.note_bundle()


def make_root() -> str:
    return pki.ClusterCA().certificate.decode()


@pytest.fixture
async def stage(api_server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    monkeypatch.setattr(trust_config, "CHECK_INTERVAL_S", 0.1)
    make_owner(api_server)
    client = await ClusterClient.open(api_server.admin)
    made = Stage(client, make_root())
    work = [*(watch.run() for watch in made.watches), made.trust.run(), made.configuration.run()]
    tasks = [asyncio.create_task(each) for each in work]
    try:
        for watch in made.watches:
            await asyncio.wait_for(watch.is_synced.wait(), 20)
        yield made
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await client.close()


async def read_trust(stage: Stage, namespace: str) -> str | None:
    with contextlib.suppress(Exception):
        found = await stage.client.get(f"/api/v1/namespaces/{namespace}/configmaps/touchmark-trust", ConfigMap)
        return (found.data or {}).get("roots.pem")
    return None


async def read_bundles(stage: Stage) -> set[str]:
    found = await stage.client.get(f"{webhook_config.PATH}/touchmark", Configuration)
    return {base64.b64decode(each.client_config.ca_bundle).decode() for each in found.webhooks}


async def test_new_roots_reach_the_pods_and_the_api_server(stage: Stage, api_server: ApiServer, namespace: str) -> None:
    assert not stage.configuration.is_current, "there is none yet, and the CA makes none"
    api_server.kubectl.apply(read_configuration("https://127.0.0.1:1"))
    try:
        await stage.trust.publish(namespace)
        assert await read_trust(stage, namespace) == stage.roots
        for _ in range(2):
            await eventually(lambda: stage.configuration.is_current)
            assert await read_bundles(stage) == {stage.roots}
            stage.change_roots()

            async def has_new_roots() -> bool:
                return await read_trust(stage, namespace) == stage.roots

            await eventually(has_new_roots)
        # Somebody applies the manifest again, with an empty caBundle: it is healed.
        await eventually(lambda: stage.configuration.is_current)
        document = read_configuration("https://127.0.0.1:1")
        for webhook in document["webhooks"]:
            webhook["clientConfig"]["caBundle"] = ""
        api_server.kubectl.apply(document)

        async def is_healed() -> bool:
            return await read_bundles(stage) == {stage.roots}

        await eventually(is_healed)
    finally:
        api_server.kubectl("delete", "mutatingwebhookconfiguration", "touchmark")
    await eventually(lambda: len(stage.configuration) == 0)


async def test_it_goes_some_time_after_the_last_pod_that_needs_it(stage: Stage, namespace: str) -> None:
    stage.needing = {namespace}

    async def is_there() -> bool:
        return await read_trust(stage, namespace) == stage.roots

    await eventually(is_there)  # Also where the webhook wasn't asked: for pods injected elsewhere.
    stage.needing = None
    stage.skipped_s += 2 * GRACE_S
    await asyncio.sleep(0.5)
    assert await is_there(), "while nobody knows who needs it, it stays"
    stage.needing = set()
    await asyncio.sleep(0.5)
    assert await is_there(), "nor does it go at once"
    stage.skipped_s += GRACE_S + 1

    async def is_gone() -> bool:
        return await read_trust(stage, namespace) is None

    await eventually(is_gone)


async def test_who_does_not_lead_makes_it_where_there_is_none_and_leaves_it_where_there_is(
    stage: Stage, api_server: ApiServer, namespace: str
) -> None:
    stage.leads = False
    await stage.trust.publish(namespace)
    old = stage.roots
    assert await read_trust(stage, namespace) == old
    stage.change_roots()
    await stage.trust.publish(namespace)
    await asyncio.sleep(0.5)
    assert await read_trust(stage, namespace) == old


async def test_a_namespace_that_is_not_there_is_an_error_for_the_webhook_and_not_remembered(stage: Stage) -> None:
    with pytest.raises(NotFoundError):
        await stage.trust.publish("no-such-namespace")
    assert "no-such-namespace" not in str(vars(stage.trust))
