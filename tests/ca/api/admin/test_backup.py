"""A backup over the admin API (``ca.api.admin.backup``): whole, or visibly broken off."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import msgspec
import pytest

from ca.backup.export import list_tables
from shared.model.wire.backup import BACKUP_PATH, BackupRequest, PassphraseSalt, derive_secret, format_recipient
from tests.ca.backup.backups import KEY, open_backup, restore
from tests.ca.running import Admin, FakeSidecar, running_ca


async def fetch(admin: Admin, request: BackupRequest) -> bytes:

    async with admin.session.post(BACKUP_PATH, data=msgspec.json.encode(request)) as response:
        assert response.status == 200
        return await response.read()


async def test_what_it_sends_restores_while_sidecars_work(tmp_path: Path) -> None:
    request = BackupRequest(recipient=format_recipient(KEY.public_key()))
    async with running_ca(tmp_path) as services, Admin(services) as admin, FakeSidecar(services) as sidecar:
        await sidecar.enrol("a", "198.18.0.2")
        file = await fetch(admin, request)
        taken = (await services.store.audit.list_lines(limit=1, newest=True)).lines[0]
        assert "store.backup" in taken and request.recipient in taken
        loaded = await restore(file, tmp_path / "elsewhere", kek=services.kek, now=services.clock())
        await admin.fail("POST", BACKUP_PATH, 400, BackupRequest(recipient="nobody"))
    assert (loaded.counts["sidecars"], loaded.counts["certificates"]) == (1, 1)
    assert set(loaded.counts) == {table.name for table in list_tables()}


async def test_a_passphrase_never_reaches_the_ca(tmp_path: Path) -> None:
    salt = PassphraseSalt(salt=bytes(16), n=2)
    key = derive_secret("correct horse", salt)
    request = BackupRequest(recipient=format_recipient(key.public_key()), passphrase=salt)
    async with running_ca(tmp_path) as services, Admin(services) as admin:
        opened = open_backup(await fetch(admin, request), key)
    assert opened.header.passphrase == salt
    assert b"".join(opened.read_all())


async def test_one_that_fails_is_broken_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = BackupRequest(recipient=format_recipient(KEY.public_key()))
    monkeypatch.setattr("ca.api.admin.backup.TOTAL_DEADLINE_S", 0.0)
    async with running_ca(tmp_path) as services, Admin(services) as admin:
        with pytest.raises(aiohttp.ClientError):
            await fetch(admin, request)
        # And the next may try.
        monkeypatch.undo()
        assert await fetch(admin, request)
