"""``python -m ca restore`` and ``rewrap`` (``ca.runtime.offline``): as an operator runs them, and killed anywhere."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import structlog

from ca.__main__ import main
from ca.authority.kek import KekOrigin, KeyEncryptionError, load_key_encryption_key, parse_key
from ca.runtime.compose import RunningCA
from shared.model.policy.rules import Mode
from shared.model.wire.admin_audit import AuditEntry
from shared.model.wire.backup import format_secret
from tests.ca.backup.backups import KEY, take
from tests.ca.running import running_ca
from tests.ca.runtime.killing import count_steps


@pytest.fixture(autouse=True)
def _logs_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """``main`` sets the process's logs up for good: later tests in this process read theirs from standard output."""
    before, configure = structlog.get_config(), structlog.configure
    configure(logger_factory=structlog.PrintLoggerFactory(file=sys.stderr), cache_logger_on_first_use=False)
    monkeypatch.setattr("structlog.configure", lambda **_: None)
    yield
    configure(**before)


async def make_ca(directory: Path) -> tuple[Path, str]:
    """Run a CA once; return its backup and its root's pin."""
    directory.mkdir(exist_ok=True)
    async with running_ca(directory) as services:
        file = directory / "backup"
        file.write_bytes(await take(services.store, taken=services.clock()))
        return file, services.authorities.root_pin


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "backup-key"
    path.write_text(f"# remark\n{format_secret(KEY)}\n")
    return path


def places(directory: Path) -> list[str]:
    return ["--data-dir", str(directory / "data"), "--kek-file", str(directory / "kek")]


async def test_restored_on_another_machine_the_ca_runs_on(
    tmp_path: Path, key_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, pin = await make_ca(tmp_path / "one")
    other = tmp_path / "two"
    other.mkdir()
    command = ["restore", str(file), "--key-file", str(key_file), *places(other)]
    assert await asyncio.to_thread(main, command) == 2
    assert "is missing" in capsys.readouterr().err  # The key-encryption key is no part of a backup.
    assert not (other / "data" / "touchmark.db").exists()
    (other / "kek").write_bytes((tmp_path / "one" / "kek").read_bytes())
    (other / "kek").chmod(0o600)
    assert await asyncio.to_thread(main, [*command, "--check"]) == 0
    told = capsys.readouterr().out
    assert "the backup is whole: the CA of touchmark.local" in told
    assert re.search(r" as it was at \d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ: ", told), "as times are written everywhere"
    assert not (other / "data" / "touchmark.db").exists()
    assert await asyncio.to_thread(main, [*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"]["authorities"] == 2
    async with running_ca(other) as services:
        assert services.authorities.root_pin == pin
        await check_actor(services, "store.restore", "ca restore")
        # Never under a CA that works.
        assert await asyncio.to_thread(main, [*command, "--replace"]) == 5
        assert "another CA works in" in capsys.readouterr().err
        assert await asyncio.to_thread(main, ["rewrap", *places(other)]) == 5
        await services.store.namespaces.set_mode("shop", Mode.EXPLICIT)
    assert await asyncio.to_thread(main, [*command, "--replace"]) == 0
    assert re.search(r"undone; repeat what still counts:\n  \S+ \S+Z  mode.set  shop\n", capsys.readouterr().out)


async def check_actor(services: RunningCA, act: str, verb: str) -> None:
    """Somebody did it, whoever's process that was: not the CA by itself."""
    lines = [msgspec.json.decode(line, type=AuditEntry) for line in (await services.store.audit.list_lines()).lines]
    [entry] = [line for line in lines if line.act == act]
    assert (entry.actor.kind, entry.actor.origin) == ("process", verb)
    assert (entry.actor.uid, entry.actor.gid, entry.actor.pid) == (os.getuid(), os.getgid(), os.getpid())


async def test_a_new_key_encryption_key_takes_the_old_ones_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, pin = await make_ca(tmp_path)
    old = (tmp_path / "kek").read_text()
    assert await asyncio.to_thread(main, ["rewrap", *places(tmp_path)]) == 0
    told = capsys.readouterr().out
    kept = next(tmp_path.glob("kek.old-*"))
    assert str(kept) in told and kept.read_text() == old != (tmp_path / "kek").read_text()
    async with running_ca(tmp_path) as services:
        assert services.authorities.root_pin == pin
        assert [entry.event for entry in await services.store.authorities.list_journal()][:2] == ["resealed"] * 2
        await check_actor(services, "authorities.reseal", "ca rewrap")
    (tmp_path / "kek").unlink()
    kept.rename(tmp_path / "kek")
    with pytest.raises(KeyEncryptionError, match="were sealed with"):
        async with running_ca(tmp_path):
            pass


async def test_a_new_key_encryption_key_may_have_a_file_of_its_own(tmp_path: Path) -> None:
    await make_ca(tmp_path)
    new = ["--new-kek-file", str(tmp_path / "new")]
    for _ in range(2):  # Repeated it changes nothing.
        assert await asyncio.to_thread(main, ["rewrap", *places(tmp_path), *new]) == 0
    async with running_ca(tmp_path, kek_file=tmp_path / "new"):
        pass


async def test_a_broken_off_rewrap_is_named_at_the_cas_start(tmp_path: Path) -> None:
    await make_ca(tmp_path)
    (tmp_path / "kek").rename(tmp_path / "kek.next")
    with pytest.raises(KeyEncryptionError, match="broken off"):
        async with running_ca(tmp_path):
            pass


def test_a_secrets_whole_text_may_stand_in_the_environment(tmp_path: Path) -> None:
    text = (tmp_path / "kek", tmp_path / "data")
    made = load_key_encryption_key(*text, {}, sealed_by="")
    given = {"TOUCHMARK_KEK": (tmp_path / "kek").read_text()}
    assert load_key_encryption_key(*text, given, sealed_by="").key_id == made.key_id
    assert parse_key(given["TOUCHMARK_KEK"], origin=KekOrigin.FILE, source="").key_id == made.key_id


async def test_killed_at_any_step_a_restore_leaves_the_old_store_or_the_new(tmp_path: Path, key_file: Path) -> None:
    file, _ = await make_ca(tmp_path / "one")
    await make_ca(tmp_path / "two")
    (tmp_path / "two" / "kek").rename(tmp_path / "two" / "kek-old")
    shutil.copy(tmp_path / "one" / "kek", tmp_path / "two" / "kek")
    assert await asyncio.to_thread(count_steps, "restore", tmp_path / "two", file, key_file) > 10


async def test_killed_at_any_step_a_rewrap_leaves_a_key_that_opens_the_store(tmp_path: Path) -> None:
    await make_ca(tmp_path)
    assert await asyncio.to_thread(count_steps, "rewrap", tmp_path) > 5
