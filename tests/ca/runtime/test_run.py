"""The CA as a whole: what it locks, what it leaves, how it ends, and what it looks after by itself."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from ca.runtime import run as app
from shared.model.errors import ConflictError, InputError, UnavailableError
from shared.model.policy.rules import Mode
from shared.model.wire.admin import Health
from shared.model.wire.messages import NamespaceChanged
from tests.ca.running import Admin, FakeSidecar, eventually, make_decision, running_ca


async def test_a_second_ca_in_the_same_directory_is_refused_and_the_first_lives_on(tmp_path: Path) -> None:
    async with running_ca(tmp_path) as services:
        with pytest.raises(ConflictError, match="another CA works in"):
            async with running_ca(tmp_path, admin_socket=tmp_path / "other.sock"):
                pass
        assert services.configuration.admin_socket.is_socket()
    async with running_ca(tmp_path):
        pass


async def test_a_socket_that_another_serves_is_left_alone_and_a_stale_one_replaced(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        inode = path.stat().st_ino
        with pytest.raises(ConflictError, match="another CA serves"):
            async with running_ca(tmp_path):
                pass
        assert path.stat().st_ino == inode
    assert path.is_socket()  # Nobody serves it any more.
    async with running_ca(tmp_path) as services, Admin(services) as admin:
        assert (await admin.get("/healthz", Health)).status == "ok"
    assert not path.exists()


async def test_a_file_in_the_sockets_place_is_not_deleted(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    path.write_text("mine")
    with pytest.raises(UnavailableError, match="admin socket"):
        async with running_ca(tmp_path):
            pass
    assert path.read_text() == "mine"


async def test_a_port_in_use_leaves_no_store_behind(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UnavailableError, match="can't listen on"):
        async with running_ca(tmp_path, port=taken.getsockname()[1]):
            pass
    assert not (tmp_path / "data" / "touchmark.db").exists()


async def test_a_store_of_another_trust_domain_is_refused(tmp_path: Path) -> None:
    async with running_ca(tmp_path):
        pass
    with pytest.raises((ConflictError, InputError)):
        async with running_ca(tmp_path, trust_domain="other.test"):
            pass


async def test_started_again_it_is_the_same_ca_and_nobody_is_connected(tmp_path: Path) -> None:
    async with running_ca(tmp_path) as services:
        pin = services.authorities.root_pin
        sidecar = FakeSidecar(services)
        await sidecar.__aenter__()
        await sidecar.enrol("a", "198.18.0.2")
    await asyncio.wait_for(sidecar.stream.wait_closed(), 20)
    assert sidecar.stream.close_code == 1012  # Service restart: come again.
    async with running_ca(tmp_path) as services:
        assert services.authorities.root_pin == pin
        (known,) = await services.store.list_sidecars()
        assert not known.connected
        assert services.hub.directory.get("198.18.0.2").service_account == "web"


async def test_upkeep_prunes_renews_and_forgets_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PRUNE_INTERVAL_S", "CERTIFICATE_CHECK_S", "REFRESH_INTERVAL_S"):
        monkeypatch.setattr(app, name, 0.05)
    async with running_ca(tmp_path) as services:
        async with FakeSidecar(services) as sidecar:
            await sidecar.enrol("a", "198.18.0.2")
        await services.store.insert_decisions([make_decision("old", time=1.0)])
        before = services.server_certificate.not_after
        real = services.clock
        services.clock = lambda: real() + 50_000  # Past the leaf's life, and half of the server certificate's.
        await eventually(lambda: services.server_certificate.not_after > before)
        await eventually(lambda: services.hub.directory.get("198.18.0.2").namespace == "")
        await eventually(lambda: b"touchmark_ca_decisions_pruned_total 1.0" in services.metrics.render())


async def test_what_ended_long_ago_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "PRUNE_INTERVAL_S", 0.05)
    async with running_ca(tmp_path) as services:
        async with FakeSidecar(services) as sidecar:
            await sidecar.enrol("a", "198.18.0.2")
        real = services.clock
        services.clock = lambda: real() + app.LEDGER_KEPT_S - 7200
        await asyncio.sleep(0.2)
        assert len(await services.store.list_certificates()) == len(await services.store.list_join_tokens()) == 1
        services.clock = lambda: real() + app.LEDGER_KEPT_S + 7200

        async def is_forgotten() -> bool:
            store = services.store
            return not (
                await store.list_certificates() or await store.list_join_tokens() or await store.list_sidecars()
            )

        await eventually(is_forgotten)


async def test_a_change_is_pushed_although_the_store_failed_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_ca(tmp_path) as services, FakeSidecar(services) as sidecar:
        await sidecar.enrol("a")
        real, failures = services.store.get_namespace_state, iter([True])

        async def fail_once(namespace: str) -> object:
            if next(failures, False):
                raise UnavailableError("a moment, please")
            return await real(namespace)

        monkeypatch.setattr(services.store, "get_namespace_state", fail_once)
        await services.store.set_mode("shop", Mode.EXPLICIT)
        assert (await sidecar.expect(NamespaceChanged)).state.mode is Mode.EXPLICIT
