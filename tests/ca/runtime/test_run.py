"""The CA as a whole (``ca.runtime.run``): what it leaves, and how it ends."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509

from ca.authority.kek import KeyEncryptionError
from shared.model.errors import ConflictError, InputError, UnavailableError
from shared.model.wire.admin import Health
from shared.model.wire.messages import CertificateIssued, CertificateRefused, CertificateRequest
from tests.ca.postgresql import PostgreSQL
from tests.ca.running import Admin, FakeSidecar, ShiftedClock, eventually, running_ca


async def test_a_port_in_use_leaves_no_store_behind(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UnavailableError, match="can't listen on"):
        async with running_ca(tmp_path, port=taken.getsockname()[1], is_migrated=False):
            pass
    assert not (tmp_path / "data" / "touchmark.db").exists()


async def test_a_store_of_another_trust_domain_is_refused(tmp_path: Path) -> None:
    async with running_ca(tmp_path):
        pass
    with pytest.raises((ConflictError, InputError)):
        async with running_ca(tmp_path, trust_domain="other.test"):
            pass


async def test_started_again_it_is_the_same_ca_and_nobody_is_connected(tmp_path: Path) -> None:
    async with running_ca(tmp_path, is_migrated=False) as services:
        pin = services.authorities.root_pin
        sidecar = FakeSidecar(services)
        await sidecar.__aenter__()
        await sidecar.enrol("a", "198.18.0.2")
    await asyncio.wait_for(sidecar.stream.wait_closed(), 20)
    assert sidecar.stream.close_code == 1012  # Service restart: come again.
    async with running_ca(tmp_path) as services:
        assert services.authorities.root_pin == pin
        (known,) = await services.store.sidecars.list_all()
        assert not known.connected
        assert services.hub.directory.get("198.18.0.2").service_account == "web"


@pytest.mark.parametrize("after_days", [91, 3651])
async def test_after_years_of_sleep_it_starts_and_signs(tmp_path: Path, after_days: int) -> None:
    """Its server certificate and everything else needs an issuer that hasn't ended."""
    async with running_ca(tmp_path):
        pass
    clock = ShiftedClock()
    clock.shift_s = after_days * 86_400.0
    async with running_ca(tmp_path, clock=clock) as services:
        assert services.server_certificate.not_after > clock()
        assert services.authorities.active.record.not_after > clock() + 80 * 86_400


async def test_a_lost_key_encryption_key_is_named_and_no_new_one_is_written(tmp_path: Path) -> None:
    async with running_ca(tmp_path) as services:
        kek = services.configuration.kek_file
    kek.rename(tmp_path / "backup")
    with pytest.raises(KeyEncryptionError, match="is missing"):
        async with running_ca(tmp_path):
            pass
    assert not kek.exists()
    (tmp_path / "backup").rename(kek)
    async with running_ca(tmp_path):
        pass


def test_outside_a_cluster_its_client_library_is_not_loaded() -> None:
    """It takes 20 MiB."""
    code = "import sys, ca.runtime.run; sys.exit('kubernetes' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


async def test_two_hours_without_the_store_end_no_certificate(tmp_path: Path, postgresql: PostgreSQL) -> None:
    """It goes at the worst moment, when everything is about to be renewed. The CA stays ready and keeps its streams."""
    clock = ShiftedClock()
    url = postgresql.url("outage")
    async with (
        running_ca(tmp_path, clock=clock, database=url) as services,
        Admin(services) as admin,
        FakeSidecar(services) as sidecar,
    ):
        await sidecar.enrol("a", "198.18.0.2")
        leaf = x509.load_der_x509_certificate(sidecar.chain[0])
        ends = leaf.not_valid_after_utc.timestamp()
        clock.shift_s = (ends - clock()) / 2 - 1
        postgresql.stop()
        try:
            clock.shift_s += 2 * 3600
            assert clock() < ends
            ready = await admin.get("/readyz", Health)
            assert ready.status == "degraded" and ready.checks["sign"] == "ok"
            assert services.server_certificate.not_after > clock()
            await sidecar.send(CertificateRequest(request=7, csr=sidecar.csr))
            refused = await sidecar.expect(CertificateRefused)
            assert (refused.request, refused.reason) == (7, "ca_unavailable")
        finally:
            postgresql.restart()

        async def is_renewed() -> bool:
            await sidecar.send(CertificateRequest(request=8, csr=sidecar.csr))
            answer = await sidecar.receive()
            return isinstance(answer, CertificateIssued)

        await eventually(is_renewed)
        assert (await admin.get("/readyz", Health)).status in ("ok", "degraded")  # It is remembered for a second.
