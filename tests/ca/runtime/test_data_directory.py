"""One CA works in a data directory (``ca.runtime.data_directory``)."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ca.store.store import Store
from shared.model.errors import ConflictError, UnavailableError
from shared.model.wire.admin import Health
from tests.ca.postgresql import PostgreSQL
from tests.ca.running import Admin, FakeSidecar, make_client_context, running_ca


async def test_a_second_ca_in_the_same_directory_is_refused_and_the_first_lives_on(tmp_path: Path) -> None:
    async with running_ca(tmp_path) as services:
        with pytest.raises(ConflictError, match="another CA works in"):
            async with running_ca(tmp_path, admin_socket=tmp_path / "other.sock", lock_wait_s=0.0):
                pass
        assert services.configuration.admin_socket.is_socket()
    async with running_ca(tmp_path):
        pass


async def test_a_ca_that_takes_anothers_place_waits_until_it_has_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a pod that is replaced: the kubelet starts the new one while the old one ends."""
    seen = ""
    async with running_ca(tmp_path) as first:
        pin = first.authorities.root_pin
        replacing = asyncio.create_task(start_and_stop(tmp_path))
        while "waiting_for_data_directory" not in seen:
            await asyncio.sleep(0.01)
            seen += capsys.readouterr().out
        assert not replacing.done()
    assert await replacing == pin


async def start_and_stop(directory: Path) -> str:
    async with running_ca(directory, admin_socket=directory / "other.sock", lock_wait_s=60.0) as services:
        return services.authorities.root_pin


@pytest.mark.parametrize("gone", ["data", "data/lock", "data/touchmark.db"])
async def test_what_is_deleted_under_a_running_ca_is_noticed(tmp_path: Path, gone: str) -> None:
    async with running_ca(tmp_path) as services, Admin(services) as admin:
        assert services.directory is not None
        services.directory.check()
        (tmp_path / gone).rename(tmp_path / "away")
        ready = await admin.ask("GET", "/readyz", Health, status=503)
        assert "was deleted" in ready.checks["directory"]
        with pytest.raises(UnavailableError, match="was deleted"):
            await services.directory.watch()
        (tmp_path / "away").rename(tmp_path / gone)
        services.directory.check()


async def test_another_directory_in_its_place_is_noticed(tmp_path: Path) -> None:
    async with running_ca(tmp_path) as services:
        assert services.directory is not None
        shutil.copytree(tmp_path / "data", tmp_path / "copy")
        (tmp_path / "data").rename(tmp_path / "away")
        (tmp_path / "copy").rename(tmp_path / "data")
        with pytest.raises(UnavailableError, match="replaced"):
            services.directory.check()


def test_the_process_ends_when_its_data_directory_is_gone(tmp_path: Path) -> None:
    places = ["--data-dir", str(tmp_path / "data"), "--kek-file", str(tmp_path / "kek"), "--listen", "127.0.0.1:0"]
    command = [sys.executable, "-m", "ca", *places, "--admin-socket", str(tmp_path / "admin.sock")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            said = ""
            for line in process.stderr:
                said += line
                if '"ca_started"' in line:
                    shutil.rmtree(tmp_path / "data")
            assert process.wait(60) == 6
        finally:
            process.kill()
    assert '"data_directory_gone"' in said and "error[unavailable]" in said


async def test_a_reinstalled_ca_works_on_over_a_database_that_was_kept(tmp_path: Path, postgresql: PostgreSQL) -> None:
    """Everything but database and key is new; the former replica never said that it left."""
    url = postgresql.url("reinstalled")
    async with running_ca(tmp_path, database=url) as services, FakeSidecar(services) as sidecar:
        await sidecar.enrol("a", "198.18.0.2")
        pin, pem = services.authorities.root_pin, sidecar.write_pem(tmp_path / "a.pem")
        store = await Store.open(url, trust_domain="touchmark.local", replica="killed")
        await store.replicas.beat()
        await store.close()
    (tmp_path / "new").mkdir()
    async with running_ca(tmp_path / "new", database=url, kek_file=tmp_path / "kek") as services:
        assert services.authorities.root_pin == pin
        async with FakeSidecar(services, make_client_context(services, pem)) as sidecar:
            await sidecar.resume("a", "198.18.0.2")
