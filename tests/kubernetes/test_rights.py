"""The CA's rights are those that it uses: what it does is allowed, and nothing that is allowed goes unused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from ca.kubernetes.webhook_objects import trust_config
from ca.runtime.compose import RunningCA
from cli.admin.credentials import Authorization, Credentials
from shared.model.kubernetes.contract import CA_SERVICE, INJECT, SYSTEM_NAMESPACE, TRUST_CONFIG_MAP, name_instance
from shared.model.wire.messages import Welcome
from tests.ca.founded import WEB
from tests.ca.kubernetes.faked_cluster import enrol_pod
from tests.ca.running import FakeSidecar, eventually
from tests.free_ports import free_port
from tests.kubernetes.cluster_objects import Objects, running_ca_in_cluster
from tests.kubernetes.harness.api_server import ApiServer
from tests.kubernetes.harness.kubectl import KubectlError
from tests.kubernetes.test_crds import placed
from tests.kubernetes.test_manifests import render
from tests.kubernetes.webhook_ca import read_configuration
from tests.shared.model.policy.object_cases import policy, program
from tests.shared.model.policy.records import make_record

SHOP = "shop"
ADDRESS = "198.18.0.2"
# Verb, kind with subresource, and the object's name where a rule names one.
Right = tuple[str, str, str]


@pytest.fixture(scope="module")
def server(make_api_server: Callable[..., ApiServer]) -> ApiServer:
    """An API server of this test's own, whose audit log tells of this CA alone."""
    made = make_api_server()
    made.install_definitions()
    for namespace in (SYSTEM_NAMESPACE, SHOP):
        made.create_namespace(namespace)
    return made


def granted(roles: list[dict[str, Any]]) -> set[Right]:
    return {
        (verb, kind, name)
        for role in roles
        for rule in role["rules"]
        for kind in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames", [""])
    }


def used(server: ApiServer, rights: set[Right]) -> Iterator[Right]:
    """What the CA has asked for, as its roles would say it."""
    for event in server.audit(user=f"system:serviceaccount:{SYSTEM_NAMESPACE}:{CA_SERVICE}"):
        if (of := event.get("objectRef")) is None:
            continue
        assert event["annotations"]["authorization.k8s.io/decision"] == "allow", event
        kind = "/".join(filter(None, (of["resource"], of.get("subresource"))))
        verbs = [event["verb"]]
        if (event["verb"], event["responseStatus"]["code"]) == ("patch", 201):
            verbs.append("create")  # A server-side apply that creates is authorised for both.
        for verb in verbs:
            named = (verb, kind, of.get("name", ""))
            yield named if named in rights else (verb, kind, "")


async def test_what_the_roles_allow_is_what_the_ca_does(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust_config, "CHECK_INTERVAL_S", 0.1)
    monkeypatch.setattr(trust_config, "GRACE_S", 5.0)
    documents = render(server, "overlays/single")
    own = [each for each in documents if each["metadata"]["name"] == CA_SERVICE]
    roles = [each for each in own if each["kind"] in ("Role", "ClusterRole")]
    server.kubectl.apply(*roles, *(each for each in own if each["kind"].endswith("RoleBinding")))
    kubeconfig = server.service_account_kubeconfig(SYSTEM_NAMESPACE, CA_SERVICE)
    port = free_port()
    server.kubectl.apply(read_configuration(f"https://127.0.0.1:{port}"))
    options: dict[str, Any] = {
        "admin_host": "127.0.0.1",
        "webhook_host": "127.0.0.1",
        "webhook_port": port,
        "kek_secret": "touchmark-kek",
    }
    # Begun twice: the key-encryption key is made, then found.
    for _ in range(2):
        async with (
            running_ca_in_cluster(tmp_path, kubeconfig, **options) as services,
            Objects.of(server, SHOP) as objects,
        ):
            await play(services, server, objects)
    rights = granted(roles)
    assert set(used(server, rights)) == rights


async def play(services: RunningCA, server: ApiServer, objects: Objects) -> None:
    """Everything that a cluster makes a CA do."""
    await asyncio.to_thread(server.kubectl.apply, *(placed(each, SHOP) for each in (policy({}), program())))
    await eventually(lambda: services.cluster.is_leader, deadline_s=60)

    async def is_accepted() -> bool:
        found = [await asyncio.to_thread(server.kubectl.get, kind, "-n", SHOP) for kind in ("meshpolicies", "programs")]
        return all(each["items"][0].get("status", {}).get("conditions") for each in found)

    await eventually(is_accepted, deadline_s=60)
    # The webhook is asked about a pod of a namespace that it doesn't know, and gives that its roots.
    asked = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "asked", "annotations": {INJECT: "true"}},
        "spec": {"containers": [{"name": "app", "image": "registry.example/app:1"}]},
    }

    async def is_injected() -> bool:  # As soon as the API server has the webhook's caBundle.
        try:
            await asyncio.to_thread(server.kubectl.apply, asked, namespace=SHOP)
        except KubectlError:
            return False
        return True

    await eventually(is_injected, deadline_s=60)
    assert await has_roots(server)
    uid = await objects.create_pod("web-0", ADDRESS)
    token = await objects.request_token("web", "web-0", uid)
    async with FakeSidecar(services) as sidecar:
        welcome = await enrol_pod(sidecar, token, name_instance("web-0", uid), ADDRESS)
        assert isinstance(welcome, Welcome), welcome
    instance = name_instance("web-0", uid)
    await services.decisions.take_in([make_record()], instance=instance, workload=WEB, lost=0)

    async def is_told() -> bool:  # What was refused is an Event on the pod.
        found = await asyncio.to_thread(server.kubectl.get, "events.events.k8s.io", "-n", SHOP)
        told = [each for each in found["items"] if each["regarding"].get("uid") == uid]
        return [each["reason"] for each in told] == ["ConnectionRefused"]

    await eventually(is_told, deadline_s=60)
    await ask_as_a_user(services, server)
    for pod in ("asked", "web-0"):
        await objects.delete_pod(pod)

    async def is_gone() -> bool:
        return not await has_roots(server)

    await eventually(is_gone, deadline_s=60)


async def ask_as_a_user(services: RunningCA, server: ApiServer) -> None:
    """A user with a client certificate asks on the admin port: its roots are read, and its rights asked for."""
    pair = server.ca.issue("stranger")
    own = Authorization(Credentials(certificate=pair.certificate, key=pair.key))
    async with (
        aiohttp.ClientSession(f"http://{services.admin_listen}") as session,
        session.get("/v1/status", headers=await own.make_headers(session)) as response,
    ):
        assert response.status == 403, await response.text()


async def has_roots(server: ApiServer) -> bool:
    found = await asyncio.to_thread(server.kubectl.get, "configmaps", "-n", SHOP)
    return TRUST_CONFIG_MAP in {each["metadata"]["name"] for each in found["items"]}
