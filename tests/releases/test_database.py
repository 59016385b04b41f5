"""Replicas of both releases on one PostgreSQL, as while a Deployment of the CA is rolled out."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import websockets

from ca.runtime.compose import RunningCA
from shared.model.policy.rules import Mode
from shared.model.wire import admin as api
from shared.model.wire.messages import STREAM_PATH, BundleChanged, BundleInstalled, CertificateIssued, NamespaceChanged
from tests.ca.api.stream.test_pods import issue
from tests.ca.conftest import postgresql as postgresql
from tests.ca.conftest import unhurried as unhurried
from tests.ca.postgresql import PostgreSQL
from tests.ca.running import CURL, Admin, FakeSidecar, eventually, make_client_context, running_ca
from tests.e2e.harness import admin as other
from tests.free_ports import free_port
from tests.releases import previous


class Replica:
    """A CA process of the previous release."""

    def __init__(self, directory: Path, url: str) -> None:
        self.directory = directory / "before"
        self.directory.mkdir()
        self.admin = other.Admin(self.directory / "admin.sock")
        self.listen = f"127.0.0.1:{free_port()}"
        self._release = previous.unpack(directory)
        self._kek, self._url = directory / "kek", url
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        command = [
            sys.executable, "-m", "ca", "--data-dir", str(self.directory / "data"), "--kek-file", str(self._kek),
            "--listen", self.listen, "--admin-socket", str(self.directory / "admin.sock"),
        ]  # fmt: skip
        environment = {**os.environ, "TOUCHMARK_DATABASE_URL": self._url, "PYTHONPATH": str(self._release)}
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env={**environment, "PYTHONSAFEPATH": "1"}, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        return self.process

    def is_ready(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError((self.directory / "log").read_text()[-3000:])
        try:
            return self.admin.status().version == previous.VERSION
        except (OSError, other.AdminError):
            return False

    def sidecar(self, services: RunningCA) -> FakeSidecar:
        """A sidecar of the previous release at this replica; its token is made at the other."""
        sidecar = FakeSidecar(services, protocols=())
        sidecar.connection = websockets.connect(
            f"wss://{self.listen}{STREAM_PATH}", ssl=make_client_context(services), proxy=None
        )
        return sidecar

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(20)


@pytest.fixture
def url(postgresql: PostgreSQL, tmp_path: Path) -> str:
    return postgresql.url_for(tmp_path)


@pytest.fixture
def before(tmp_path: Path, url: str) -> Iterator[Replica]:
    replica = Replica(tmp_path, url)
    try:
        yield replica
    finally:
        replica.end()


async def test_a_replica_of_the_previous_release_serves_on_while_today_s_joins_it(
    before: Replica, tmp_path: Path, url: str
) -> None:
    await eventually(lambda: asyncio.to_thread(before.is_ready), deadline_s=150)
    directory = tmp_path / "today"
    directory.mkdir()
    async with (
        running_ca(directory, database=url, kek_file=tmp_path / "kek") as services,
        before.sidecar(services) as old,
        FakeSidecar(services) as new,
    ):
        assert (await old.enrol("web-1", "198.18.0.1")).ca_version == ""
        assert (await new.enrol("db-1", "198.18.0.2")).ca_version != ""
        # Policy of today's reaches streams of the other, and each of them signs.
        async with Admin(services) as admin:
            policy = api.PolicyRequest(namespace="shop", rules=(), mode=Mode.EXPLICIT)
            await admin.ask("PUT", "/v1/policies", api.PolicyView, policy)
            for sidecar in (old, new):
                assert (await sidecar.expect(NamespaceChanged)).state.mode is Mode.EXPLICIT
            program = api.ProgramRequest(namespace="shop", service_account="web", programs=(CURL,))
            await admin.ask("POST", "/v1/programs", api.ProgramView, program)
        await old.expect(NamespaceChanged)
        assert isinstance(await issue(old), CertificateIssued)
        # A rotation waits for the sidecars of both, and each signs with the new authority then.
        status = await services.rotation.start()
        assert status.waiting_for == ("db-1", "web-1")
        for sidecar in (old, new):
            bundle = (await sidecar.expect(BundleChanged)).bundle
            await sidecar.send(BundleInstalled(sequence=bundle.sequence))
        await eventually(lambda: services.authorities.active.record.subject == status.issuer)
        await eventually(lambda: asyncio.to_thread(lambda: before.admin.rotation().step == "active"))
        assert isinstance(await issue(old), CertificateIssued)
    # Once ended, it doesn't come back over a database that has moved on, and says why.
    before.end()
    process = before.start()
    assert await asyncio.to_thread(process.wait, 60) != 0
    assert "this database was made by another version of Touchmark" in (before.directory / "log").read_text()
