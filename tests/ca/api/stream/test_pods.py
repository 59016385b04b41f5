"""A pod's sidecar on the stream: joins by its token, resumes and is issued to while its pod is alive, never after."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from ca.api.stream import second_sidecar
from ca.runtime import cluster as cluster_module
from ca.runtime import cluster_upkeep
from ca.runtime.compose import RunningCA
from shared.model.wire.admin import Health
from shared.model.wire.messages import (
    STREAM_PATH,
    CertificateIssued,
    CertificateRefused,
    CertificateRequest,
    DirectoryEntry,
    EnrolPod,
    Lookup,
    Refusal,
    Resume,
    Welcome,
    encode_message,
)
from tests.ca.kubernetes.faked_cluster import FakeCluster, cluster_of, enrol_pod, running_in_cluster
from tests.ca.kubernetes.making import make_pod_json, make_record, make_uid
from tests.ca.running import (
    CURL,
    Admin,
    FakeSidecar,
    eventually,
    make_client_context,
    make_csr,
    make_registration,
    running_ca,
)

ADDRESS = "198.18.0.2"
WEB, INSTANCE = "web-0", "web-0.00000001"


@pytest.fixture
def cluster() -> FakeCluster:
    faked = FakeCluster()
    faked.pods[WEB] = make_pod_json(WEB, ADDRESS, uid=make_uid(1))
    return faked


@pytest.fixture
async def services(tmp_path: Path, cluster: FakeCluster) -> AsyncIterator[RunningCA]:
    async with running_in_cluster(tmp_path, cluster) as running_services:
        yield running_services


async def issue(sidecar: FakeSidecar, *, for_itself: bool = False) -> CertificateIssued | CertificateRefused:
    """Ask for a certificate and return the answer."""
    request = CertificateRequest(request=1, csr=make_csr()[1], program=None if for_itself else CURL)
    await sidecar.send(request)
    while True:
        answer = await sidecar.receive()
        if isinstance(answer, CertificateIssued | CertificateRefused):
            return answer


async def test_a_pod_joins_and_is_issued_to(services: RunningCA) -> None:
    async with FakeSidecar(services) as sidecar:
        welcome = await enrol_pod(sidecar, WEB, INSTANCE, ADDRESS)
        assert isinstance(welcome, Welcome)
        assert (welcome.namespace, welcome.service_account, len(welcome.chain)) == ("shop", "web", 2)
        for for_itself in (False, True):
            assert isinstance(await issue(sidecar, for_itself=for_itself), CertificateIssued)
        record = await services.store.sidecars.get(INSTANCE)
        assert record is not None
        assert (record.pod_uid, record.addresses, record.connected) == (make_uid(1), (ADDRESS,), True)
    assert 'touchmark_ca_streams_opened_total{how="enrol_pod"} 1.0' in services.metrics.render().decode()


async def test_the_directory_is_the_api_server_s_word_whatever_was_registered(services: RunningCA) -> None:
    async with FakeSidecar(services) as sidecar, FakeSidecar(services) as other:
        await other.enrol("vm", "198.18.9.9", workload="shop/vm")
        await other.send(Lookup(address=ADDRESS))
        entry = await other.expect(DirectoryEntry)
        assert (entry.namespace, entry.service_account, entry.tunnel_port) == ("shop", "web", 15008)
        await enrol_pod(sidecar, WEB, INSTANCE)  # It registers no address; the entry stays.
        await other.send(Lookup(address="198.18.9.9"))
        assert (await other.expect(DirectoryEntry)).service_account == "vm"
        # The pod goes: pushed at once, its stream ended, its record forgotten.
        cluster_of(services).pods.remove(make_record(WEB, ADDRESS, uid=make_uid(1)))
        gone = await other.expect(DirectoryEntry)
        assert gone == DirectoryEntry(address=ADDRESS)
        await eventually(lambda: services.hub.get(INSTANCE) is None)
    metrics = services.metrics.render().decode()
    assert 'touchmark_ca_streams_closed_total{why="pod_gone"} 1.0' in metrics

    async def is_forgotten() -> bool:
        return await services.store.sidecars.get(INSTANCE) is None

    await eventually(is_forgotten)


async def test_many_changes_of_an_address_are_pushed_once(services: RunningCA) -> None:
    async with FakeSidecar(services) as other:
        await other.enrol("vm", "198.18.9.9", workload="shop/vm")
        await other.send(Lookup(address="198.18.0.50"))
        await other.expect(DirectoryEntry)
        for number in range(20):
            cluster_of(services).pods.apply(make_record("x", "198.18.0.50", uid=make_uid(7), account=f"a{number}"))
        entry = await other.expect(DirectoryEntry)
        assert entry.service_account == "a19"
        await other.send(Lookup(address="198.18.0.51"))
        assert (await other.expect(DirectoryEntry)).address == "198.18.0.51"


async def test_nothing_is_issued_to_a_pod_that_may_no_longer_join(services: RunningCA) -> None:
    async with FakeSidecar(services) as sidecar:
        await enrol_pod(sidecar, WEB, INSTANCE, ADDRESS)
        cluster_of(services).pods.apply(make_record(WEB, ADDRESS, uid=make_uid(1), image="registry.test/old:0"))
        for for_itself in (False, True):
            answer = await issue(sidecar, for_itself=for_itself)
            assert isinstance(answer, CertificateRefused)
            assert answer.reason == "pod_not_injected"


async def test_nothing_is_issued_when_nobody_knows_whether_the_pod_lives(
    services: RunningCA, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FakeSidecar(services) as sidecar:
        await enrol_pod(sidecar, WEB, INSTANCE, ADDRESS)
        monkeypatch.setattr(cluster_module, "MAX_STALE_S", -1.0)
        answer = await issue(sidecar)
        assert isinstance(answer, CertificateRefused)
        assert answer.reason == "ca_unavailable"
    async with FakeSidecar(services) as sidecar:
        refusal = await enrol_pod(sidecar, WEB, INSTANCE, ADDRESS)
        assert isinstance(refusal, Refusal) and refusal.code == "unavailable"


async def test_it_resumes_while_its_pod_lives(services: RunningCA, tmp_path: Path) -> None:
    async with FakeSidecar(services) as sidecar:
        await enrol_pod(sidecar, WEB, INSTANCE, ADDRESS)
        pem = sidecar.write_pem(tmp_path / "sidecar.pem")
    async with FakeSidecar(services, make_client_context(services, pem)) as again:
        await again.resume(INSTANCE, ADDRESS)
        assert isinstance(await issue(again), CertificateIssued)
    cluster_of(services).pods._pods.clear()  # The pod is unknown, without a word that would end or forget anything.
    async with FakeSidecar(services, make_client_context(services, pem)) as late:
        await late.send(Resume(registration=make_registration(INSTANCE, ADDRESS)))
        refusal = await late.receive()
        assert isinstance(refusal, Refusal) and refusal.code == "pod_gone"


async def test_where_nobody_answers_a_second_enrolment_of_a_pod_supersedes_the_first_key_and_stream(
    services: RunningCA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(second_sidecar, "ANSWER_DEADLINE_S", 0.1)
    async with FakeSidecar(services) as first, FakeSidecar(services) as second:
        await enrol_pod(first, WEB, INSTANCE, ADDRESS)
        pem = first.write_pem(tmp_path / "first.pem")
        assert isinstance(await enrol_pod(second, WEB, INSTANCE, ADDRESS), Welcome)
        async with FakeSidecar(services, make_client_context(services, pem)) as late:
            await late.send(Resume(registration=make_registration(INSTANCE, ADDRESS)))
            refusal = await late.receive()
        assert isinstance(refusal, Refusal)
        assert "joined anew" in refusal.message
        assert isinstance(await issue(second), CertificateIssued)
    assert 'touchmark_ca_streams_closed_total{why="replaced"} 1.0' in services.metrics.render().decode()


async def test_a_reused_address_is_taken_over_from_a_sidecar_whose_certificate_lives(
    services: RunningCA, cluster: FakeCluster
) -> None:
    async with FakeSidecar(services) as old, FakeSidecar(services) as new:
        await enrol_pod(old, WEB, INSTANCE, ADDRESS)
        cluster.pods["db-0"] = make_pod_json("db-0", ADDRESS, uid=make_uid(2), account="db")
        cluster_of(services).pods.apply(make_record("db-0", ADDRESS, uid=make_uid(2), account="db"))
        welcome = await enrol_pod(new, "db-0", "db-0.00000002", ADDRESS)
        assert isinstance(welcome, Welcome)
        assert services.hub.directory.get(ADDRESS).service_account == "db"
        record = await services.store.sidecars.get_at(ADDRESS)
        assert record is not None and record.instance == "db-0.00000002"


async def test_a_refusal_has_its_own_code_and_is_remembered(services: RunningCA) -> None:
    async with FakeSidecar(services) as sidecar:
        refusal = await enrol_pod(sidecar, "no such token", "x.00000009")
    assert isinstance(refusal, Refusal)
    assert refusal.code == "token_invalid"
    assert cluster_of(services).refusals.list_newest()[0].claimed == "x.00000009"


async def test_a_pod_that_goes_while_it_joins_is_turned_away(
    services: RunningCA, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, real = cluster_of(services), services.issuance.issue_sidecar

    async def issue_late(*arguments: object) -> object:
        cluster.pods.remove(make_record(WEB, ADDRESS, uid=make_uid(1)))
        return await real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(services.issuance, "issue_sidecar", issue_late)
    async with FakeSidecar(services) as sidecar:
        refusal = await enrol_pod(sidecar, WEB, INSTANCE, ADDRESS)
        assert isinstance(refusal, Refusal) and refusal.code == "pod_gone"
    assert services.hub.get(INSTANCE) is None


async def test_a_pod_is_nobody_to_a_ca_outside_a_cluster(tmp_path: Path) -> None:
    async with running_ca(tmp_path) as services, FakeSidecar(services) as sidecar:
        refusal = await enrol_pod(sidecar, "token", INSTANCE)
        assert isinstance(refusal, Refusal)
        assert "outside a cluster" in refusal.message


async def test_a_store_of_a_cluster_gives_a_pod_nothing_outside_it(tmp_path: Path, cluster: FakeCluster) -> None:
    async with running_in_cluster(tmp_path, cluster) as services, FakeSidecar(services) as sidecar:
        await enrol_pod(sidecar, WEB, INSTANCE, ADDRESS)
        pem = sidecar.write_pem(tmp_path / "sidecar.pem")
    async with (
        running_ca(tmp_path) as services,
        FakeSidecar(services, make_client_context(services, pem)) as again,
    ):
        await again.send(Resume(registration=make_registration(INSTANCE, ADDRESS)))
        refusal = await again.receive()
        assert isinstance(refusal, Refusal)
        assert "joined as a pod" in refusal.message
        assert services.hub.directory.get(ADDRESS).namespace == ""  # No pods here: nobody vouches for the address.


async def test_until_the_cluster_is_read_nobody_is_refused_and_the_ca_is_not_ready(
    tmp_path: Path, cluster: FakeCluster
) -> None:
    cluster.is_away = True
    async with running_in_cluster(tmp_path, cluster) as services, Admin(services) as admin:
        ready = await admin.ask("GET", "/readyz", Health, status=503)
        assert "not read yet: namespaces, pods" in ready.checks["kubernetes"]
        async with aiohttp.ClientSession() as session:
            url = f"https://{services.listen}{STREAM_PATH}"
            async with session.get(url, ssl=make_client_context(services)) as response:
                assert (response.status, response.headers["Retry-After"]) == (503, "2")
        cluster.is_away = False

        async def is_ready() -> bool:
            async with admin.session.get("/readyz") as response:
                return response.status == 200

        await eventually(is_ready)
        async with FakeSidecar(services) as sidecar:
            assert isinstance(await enrol_pod(sidecar, WEB, INSTANCE, ADDRESS), Welcome)


async def test_what_went_while_the_ca_was_down_is_forgotten(
    tmp_path: Path, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_in_cluster(tmp_path, cluster) as services, FakeSidecar(services) as sidecar:
        await enrol_pod(sidecar, WEB, INSTANCE, ADDRESS)
    cluster.pods.clear()
    monkeypatch.setattr(cluster_upkeep, "RECONCILE_S", 0.2)
    async with running_in_cluster(tmp_path, cluster) as services:

        async def is_forgotten() -> bool:
            return await services.store.sidecars.get(INSTANCE) is None

        await eventually(is_forgotten)


def test_the_token_never_shows() -> None:
    message = EnrolPod(token="secret", csr=b"", registration=make_registration("a"))
    assert "secret" not in repr(message)
    assert b"secret" in encode_message(message)
