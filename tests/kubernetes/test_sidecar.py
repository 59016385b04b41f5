"""A whole sidecar that joins a whole CA as a pod of a real API server: enrolment, outages, RunningCA.

No node runs at this level: the pod is an object, its sidecar a process on this machine, at an address of loopback.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ca.runtime.compose import RunningCA
from shared.model.trust.bundle import RotationKind
from tests.free_ports import free_port
from tests.kubernetes.cluster_objects import Objects, make_ca_kubeconfig, running_ca_in_cluster
from tests.kubernetes.harness.api_server import ApiServer
from tests.sidecar.little_ca import until
from tests.sidecar.runtime.whole_sidecar import Running, run_client, sidecar

ADDRESS = "127.0.0.2"


@pytest.fixture(scope="module")
def kubeconfig(api_server: ApiServer) -> Path:
    return make_ca_kubeconfig(api_server)


@pytest.fixture
async def objects(api_server: ApiServer, namespace: str) -> AsyncIterator[Objects]:
    async with Objects.of(api_server, namespace) as made:
        yield made


class PodFiles:
    """What the kubelet and the CA put into a pod's volumes."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.token, self.roots = directory / "token", directory / "roots.pem"

    def put_roots(self, services: RunningCA) -> None:
        """Write the ConfigMap's content."""
        roots = services.authorities.bundle().roots
        self.roots.write_text("".join(ssl.DER_cert_to_PEM_cert(der) for der in roots))


@contextlib.asynccontextmanager
async def a_pods_sidecar(
    port: int, objects: Objects, files: PodFiles, uid: str, *arguments: str, token: str = ""
) -> AsyncIterator[Running]:
    files.token.write_text(token or await objects.request_token("web", "web-0", uid))
    environment = {
        "TOUCHMARK_POD_NAME": "web-0",
        "TOUCHMARK_POD_NAMESPACE": objects.namespace,
        "TOUCHMARK_POD_UID": uid,
        "TOUCHMARK_POD_IPS": ADDRESS,
        "TOUCHMARK_SERVICE_ACCOUNT": "web",
    }
    async with sidecar(
        "", "--ca", f"127.0.0.1:{port}", "--trust-domain", "touchmark.local", "--trust-file", str(files.roots),
        "--service-account-token", str(files.token), *arguments, variables=environment,
    ) as running:  # fmt: skip
        yield running


def said(running: Running, event: str) -> list[dict[str, Any]]:
    """The events of one name."""
    return [each for each in running.events if each["event"] == event]


def outbound(destination: str) -> tuple[int, tuple[str, str]]:
    """A listener that leads to a destination, as a program's dialling would."""
    listen = free_port()
    return listen, ("--outbound", f"127.0.0.1:{listen}={destination}")


async def test_a_sidecar_joins_by_its_pods_token_and_a_ca_that_lost_everything_is_joined_again(
    tmp_path: Path, kubeconfig: Path, objects: Objects
) -> None:
    uid, port = await objects.create_pod("web-0", ADDRESS), free_port()
    files = PodFiles(tmp_path / "pod")
    _, listener = outbound("127.0.0.3:9")
    async with contextlib.AsyncExitStack() as stack:
        (tmp_path / "first").mkdir()
        async with running_ca_in_cluster(tmp_path / "first", kubeconfig, port=port) as services:
            files.put_roots(services)
            running = await stack.enter_async_context(a_pods_sidecar(port, objects, files, uid, *listener))
            await running.wait_ready()
            assert said(running, "sidecar_ready")[0]["workload"] == f"{objects.namespace}/web"
            assert services.hub.directory.get(ADDRESS).namespace == objects.namespace
        (tmp_path / "second").mkdir()
        async with running_ca_in_cluster(tmp_path / "second", kubeconfig, port=port) as services:
            files.token.write_text(await objects.request_token("web", "web-0", uid))
            files.put_roots(services)
            await until(lambda: said(running, "joined_again"), timeout_s=60)
            await until(lambda: len(services.hub) == 1)
            assert running.process.returncode is None
            assert await running.stop() == 0


async def test_a_ca_that_restarts_is_resumed_without_another_review(
    tmp_path: Path, kubeconfig: Path, objects: Objects, api_server: ApiServer
) -> None:
    def reviews() -> int:
        events = api_server.audit(user="system:serviceaccount:touchmark-system:touchmark-ca")
        return sum(event["objectRef"]["resource"] == "tokenreviews" for event in events if "objectRef" in event)

    uid, port = await objects.create_pod("web-0", ADDRESS), free_port()
    files = PodFiles(tmp_path / "pod")
    _, listener = outbound("127.0.0.3:9")
    async with contextlib.AsyncExitStack() as stack:
        async with running_ca_in_cluster(tmp_path, kubeconfig, port=port) as services:
            files.put_roots(services)
            running = await stack.enter_async_context(a_pods_sidecar(port, objects, files, uid, *listener))
            await running.wait_ready()
        before = reviews()
        async with running_ca_in_cluster(tmp_path, kubeconfig, port=port):
            await until(lambda: said(running, "ca_stream_resumed"), timeout_s=60)
            assert await running.stop() == 0
    assert reviews() == before
    assert not said(running, "joined_again")


async def test_a_sidecar_that_is_refused_says_why_and_waits_until_it_isnt(
    tmp_path: Path, kubeconfig: Path, objects: Objects
) -> None:
    uid, port, health = await objects.create_pod("web-0", ADDRESS), free_port(), free_port()
    files = PodFiles(tmp_path / "pod")
    _, listener = outbound("127.0.0.3:9")

    async def ask() -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", health)
        writer.write(b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = await reader.read()
        writer.close()
        return answer.decode()

    async with running_ca_in_cluster(tmp_path, kubeconfig, port=port) as services:
        files.put_roots(services)
        arguments = (*listener, "--health-port", str(health))
        async with a_pods_sidecar(port, objects, files, uid, *arguments, token="not.a.token") as running:
            await until(lambda: said(running, "join_refused"), timeout_s=60)
            answer = await ask()
            assert answer.startswith("HTTP/1.1 503 ")
            assert "the API server refuses the token" in answer
            files.token.write_text(await objects.request_token("web", "web-0", uid))
            await running.wait_ready()
            assert (await ask()).startswith("HTTP/1.1 200 ")
            assert await running.stop() == 0


async def test_a_services_address_is_known_and_refused_by_name_where_it_has_no_endpoint(
    tmp_path: Path, kubeconfig: Path, objects: Objects
) -> None:
    uid, port = await objects.create_pod("web-0", ADDRESS), free_port()
    ports = [{"name": "web", "port": 80, "targetPort": 8080}]
    (cluster_ip, *_) = await objects.create_service("api", ports)
    files = PodFiles(tmp_path / "pod")
    served, first = outbound(f"{cluster_ip}:80")
    foreign, second = outbound(f"{cluster_ip}:81")
    async with running_ca_in_cluster(tmp_path, kubeconfig, port=port) as services:
        files.put_roots(services)
        async with a_pods_sidecar(port, objects, files, uid, *first, *second) as running:
            await running.wait_ready()
            for listen in (served, foreign):
                assert await run_client(listen, "x") == ""
            await until(lambda: len(running.records) == 2)
            # An endpoint outside the mesh, at which nobody answers: TEST-NET-1 is nobody's.
            await objects.put_slice(
                "api-1", "api", [{"name": "web", "port": 8080}],
                [{"addresses": ["192.0.2.1"], "conditions": {"ready": True}}],
            )  # fmt: skip
            await until(lambda: services.hub.directory.get(cluster_ip).service is not None)
            assert await running.stop() == 0
    name = f"service {objects.namespace}/api"
    assert {record["detail"] for record in running.records} == {
        f"{name} has no ready endpoint for port 80", f"{name} has no port 81",
    }  # fmt: skip
    assert {record["reason"] for record in running.records} == {"destination_unreachable"}


async def test_a_pod_that_still_reads_the_old_root_alone_joins_and_comes_back_while_the_root_is_rotated(
    tmp_path: Path, kubeconfig: Path, objects: Objects
) -> None:
    """The kubelet shows a changed ConfigMap late: a sidecar that starts or dials meanwhile knows the old root only."""
    uid, port = await objects.create_pod("web-0", ADDRESS), free_port()
    files = PodFiles(tmp_path / "pod")
    _, listener = outbound("127.0.0.3:9")
    async with running_ca_in_cluster(tmp_path, kubeconfig, port=port, trust_delay_s=3600) as services:
        files.put_roots(services)
        await services.rotation.start(kind=RotationKind.ROOT, force=True)
        new = services.authorities.snapshot.root.certificate.subject
        async with a_pods_sidecar(port, objects, files, uid, *listener) as running:
            await running.wait_ready()
            (session,) = services.hub
            session.end("test")
            await until(lambda: said(running, "ca_stream_resumed"), timeout_s=60)
            assert await running.stop() == 0
        # Its container starts again, now with what the kubelet has renewed.
        files.put_roots(services)
        async with a_pods_sidecar(port, objects, files, uid, *listener) as running:
            await running.wait_ready()
            assert await running.stop() == 0
        certificates = await services.store.ledger.list_lines()
        assert {each.authority_id for each in certificates} == {services.authorities.active.authority_id}
        assert services.authorities.active.certificate.issuer == new
