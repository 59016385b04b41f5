"""Pods' sidecars against a real API server: real bound tokens, real reviews, the CA's own service account."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ca.runtime.compose import RunningCA
from shared.model.errors import InputError
from shared.model.kubernetes.contract import name_instance
from shared.model.wire.admin import ClusterStatus
from shared.model.wire.messages import Refusal, Resume, Welcome
from tests.ca.api.stream.test_pods import issue
from tests.ca.conftest import unhurried as unhurried
from tests.ca.kubernetes.faked_cluster import cluster_of, enrol_pod
from tests.ca.running import Admin, FakeSidecar, eventually, make_client_context, make_registration
from tests.kubernetes.cluster_objects import Objects, make_ca_kubeconfig, running_ca_in_cluster
from tests.kubernetes.harness.api_server import ApiServer

pytestmark = pytest.mark.each_release

ADDRESS = "198.18.0.2"


@pytest.fixture(scope="module")
def kubeconfig(api_server: ApiServer) -> Path:
    api_server.install_definitions()
    return make_ca_kubeconfig(api_server)


@pytest.fixture
async def services(tmp_path: Path, kubeconfig: Path) -> AsyncIterator[RunningCA]:
    async with running_ca_in_cluster(tmp_path, kubeconfig) as running:
        yield running


@pytest.fixture
async def objects(api_server: ApiServer, namespace: str) -> AsyncIterator[Objects]:
    async with Objects.of(api_server, namespace) as made:
        yield made


async def join(services: RunningCA, token: str, instance: str, *addresses: str) -> str:
    """Join and leave again; return the code of the refusal, empty when there was none."""
    async with FakeSidecar(services) as sidecar:
        answer = await enrol_pod(sidecar, token, instance, *addresses)
    return answer.code if isinstance(answer, Refusal) else ""


async def test_a_pod_joins_by_the_token_that_the_api_server_bound_to_it(
    services: RunningCA, objects: Objects, namespace: str, tmp_path: Path
) -> None:
    uid = await objects.create_pod("web-0", ADDRESS, "2001:db8::2")
    token = await objects.request_token("web", "web-0", uid)
    instance = name_instance("web-0", uid)
    async with FakeSidecar(services) as sidecar:
        welcome = await enrol_pod(sidecar, token, instance, ADDRESS, "2001:db8::2")
        assert isinstance(welcome, Welcome), welcome
        assert (welcome.namespace, welcome.service_account) == (namespace, "web")
        assert type(await issue(sidecar)).__name__ == "CertificateIssued"
        pem = sidecar.write_pem(tmp_path / "sidecar.pem")
    # The same token heals an outage: it is the pod's, and the pod is still there.
    assert await join(services, token, instance, ADDRESS) == ""
    await objects.delete_pod("web-0")
    await eventually(lambda: services.hub.directory.get(ADDRESS).namespace == "")
    async with FakeSidecar(services, make_client_context(services, pem)) as late:
        await late.send(Resume(registration=make_registration(instance, ADDRESS)))
        refusal = await late.receive()
        assert isinstance(refusal, Refusal)


async def test_a_namespace_s_label_makes_a_mesh_group_and_its_pods_labels_don_t(
    services: RunningCA, objects: Objects, api_server: ApiServer, namespace: str
) -> None:
    """Whoever may write pods and service accounts mustn't be able to join another namespace's group."""
    # As an object: what the store alone says is deleted by whoever begins to lead.
    policy = {
        "apiVersion": "touchmark.dev/v1alpha1",
        "kind": "MeshPolicy",
        "metadata": {"name": "default", "namespace": namespace},
        "spec": {"group": {"label": "example.org/team"}},
    }
    await asyncio.to_thread(api_server.kubectl.apply, policy)

    async def is_in_force() -> bool:
        return (await services.store.namespaces.get_state(namespace)).group_label == "example.org/team"

    await eventually(is_in_force)
    uid = await objects.create_pod("web-0", ADDRESS)
    for kind, name in (("serviceaccount", "web"), ("pod", "web-0")):
        await asyncio.to_thread(api_server.kubectl, "label", kind, name, "-n", namespace, "example.org/team=red")
    token = await objects.request_token("web", "web-0", uid)
    assert await join(services, token, name_instance("web-0", uid), ADDRESS) == ""

    async def labels() -> dict[str, dict[str, str]]:
        state = await services.store.namespaces.get_state(namespace)
        return {each.service_account: each.labels for each in state.labels}

    assert await labels() in ({}, {"web": {}})
    for change, expected in (("=red", {"example.org/team": "red"}), ("-", {})):
        await asyncio.to_thread(api_server.kubectl, "label", "namespace", namespace, f"example.org/team{change}")

        async def follows(expected: dict[str, str] = expected) -> bool:
            return await labels() == {"web": expected}

        await eventually(follows)


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("wrong audience", "token_audience"),
        ("no audience", "token_audience"),
        ("expired", "token_expired"),
        ("not bound", "token_not_bound"),
        ("deleted pod", "token_revoked"),
        ("another pod of the name", "pod_replaced"),
        ("another cluster's", "token_invalid"),
        ("changed", "token_invalid"),
        ("terminating", "pod_terminating"),
        ("ended", "pod_ended"),
        ("not injected", "pod_not_injected"),
        ("another image", "pod_not_injected"),
        ("another pod's name", "instance"),
        ("another pod's address", "address"),
    ],
)
async def test_every_other_token_is_refused_with_its_own_reason(
    services: RunningCA, objects: Objects, api_server: ApiServer, what: str, code: str
) -> None:
    options: dict[str, Any] = {"injected": False} if what == "not injected" else {}
    options |= {"image": "registry.test/other:1"} if what == "another image" else {}
    uid = await objects.create_pod("web-0", ADDRESS, **options)
    instance, addresses = name_instance("web-0", uid), [ADDRESS]
    audience = {"wrong audience": "vault", "no audience": "https://kubernetes.default.svc.cluster.local"}
    bound = None if what == "not bound" else "web-0"
    token = await objects.request_token("web", bound, uid, audience=audience.get(what, "touchmark-ca"))
    match what:
        case "expired":
            token = api_server.resign(token, iat=int(time.time()) - 7200, nbf=None, exp=int(time.time()) - 3600)
        case "deleted pod" | "another pod of the name":
            await objects.delete_pod("web-0")
            if what == "another pod of the name":
                await objects.create_pod("web-0", ADDRESS)
        case "another cluster's":
            token = api_server.resign(token, iss="https://elsewhere.test")
        case "changed":
            header, claims, signature = token.split(".")
            token = ".".join([header, claims, signature[:-6] + "AAAAAA"])
        case "terminating":
            await objects.delete_pod("web-0", grace_s=300)
        case "ended":
            await objects.set_status("web-0", ADDRESS, phase="Succeeded")
        case "another pod's name":
            other = await objects.create_pod("web-1", "198.18.0.3")
            instance, addresses = name_instance("web-1", other), ["198.18.0.3"]
        case "another pod's address":
            addresses = ["198.18.0.3"]
    refused = await join(services, token, instance, *addresses)
    # The API server's own view of pods may be behind: it takes the token of one that is gone, and the CA looks itself.
    assert refused in ((code, "pod_gone") if what == "deleted pod" else (code,))
    async with Admin(services) as admin:
        status = await admin.get("/v1/cluster", ClusterStatus)
    assert [each.reason for each in status.refused] == [refused]
    assert status.server_version.startswith("v1.")


async def test_a_token_is_its_own_service_account_s_alone(services: RunningCA, objects: Objects) -> None:
    """The API server binds no token of one account to another's pod; a claim of another workload has no way in."""
    uid = await objects.create_pod("web-0", ADDRESS, account="web")
    await objects.create_account("other")
    with pytest.raises(InputError, match="different serviceaccount"):
        await objects.request_token("other", "web-0", uid)
    token = await objects.request_token("web", "web-0", uid)
    async with FakeSidecar(services) as sidecar:
        welcome = await enrol_pod(sidecar, token, name_instance("web-0", uid))
    assert isinstance(welcome, Welcome) and welcome.service_account == "web"


async def test_it_waits_for_an_address_that_the_kubelet_tells_later(services: RunningCA, objects: Objects) -> None:
    uid = await objects.create_pod("web-0")
    token = await objects.request_token("web", "web-0", uid)
    joining = asyncio.create_task(join(services, token, name_instance("web-0", uid), ADDRESS))
    await asyncio.sleep(0.3)
    assert not joining.done()
    await objects.set_status("web-0", ADDRESS)
    assert await joining == ""


async def test_a_debugging_container_that_mounts_the_token_ends_issuance(services: RunningCA, objects: Objects) -> None:
    uid = await objects.create_pod("web-0", ADDRESS)
    token = await objects.request_token("web", "web-0", uid)
    instance = name_instance("web-0", uid)
    async with FakeSidecar(services) as sidecar:
        assert isinstance(await enrol_pod(sidecar, token, instance, ADDRESS), Welcome)
        debugger = {"name": "debug", "image": "x", "volumeMounts": [{"name": "touchmark-token", "mountPath": "/t"}]}
        body = {"spec": {"ephemeralContainers": [debugger]}}
        await objects.client.patch(f"{objects.path('pods', 'web-0')}/ephemeralcontainers", body, dict)
        await eventually(lambda: bool(fault(services, uid)))
        answer = await issue(sidecar)
        assert getattr(answer, "reason", "") == "pod_not_injected"
    assert await join(services, token, instance, ADDRESS) == "pod_not_injected"


async def test_a_reused_address_is_the_new_pod_s_before_the_old_one_has_gone(
    services: RunningCA, objects: Objects
) -> None:
    old = await objects.create_pod("db-0", ADDRESS, account="db")
    token = await objects.request_token("db", "db-0", old)
    async with FakeSidecar(services) as first, FakeSidecar(services) as second:
        assert isinstance(await enrol_pod(first, token, name_instance("db-0", old), ADDRESS), Welcome)
        await objects.delete_pod("db-0", grace_s=300)
        new = await objects.create_pod("web-0", ADDRESS, account="web")
        await eventually(lambda: services.hub.directory.get(ADDRESS).service_account == "web")
        token = await objects.request_token("web", "web-0", new)
        answer = await enrol_pod(second, token, name_instance("web-0", new), ADDRESS)
        assert isinstance(answer, Welcome), answer


def fault(services: RunningCA, uid: str) -> str:
    pod = cluster_of(services).pods.get(uid)
    return pod.fault if pod is not None else ""
