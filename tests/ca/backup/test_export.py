"""What is left of backups that were killed at any of their writes, and of the store that they were taken of.

These run on SQLite: of PostgreSQL a backup reads in one transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from ca.store.engine.database import DATABASE_NAME
from shared.model.errors import InputError
from shared.model.policy.rules import Mode
from tests.ca import founded
from tests.ca.backup.backups import restore, take
from tests.ca.running import make_decision

# Writes a backup as `touchmark ca backup` does, killed before each of its steps in turn; prints how many there are.
WRITING = """
import os, signal, sys
from pathlib import Path
from cli.machine.new_files import writing_new_file

whole, folder = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2])
for step in range(1000):
    (folder / str(step)).mkdir()
    child = os.fork()
    if child == 0:
        left = [step]
        def wrap(function):
            def call(*arguments, **options):
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*arguments, **options)
            return call
        for name in ("open", "fdopen", "fsync", "link", "unlink"):
            setattr(os, name, wrap(getattr(os, name)))
        with writing_new_file(folder / str(step) / "backup") as file:
            write = wrap(file.write)
            for place in range(0, len(whole), 65_536):
                write(whole[place : place + 65_536])
                file.flush()
        os._exit(0)
    if (status := os.waitpid(child, 0)[1]) == 0:
        print(step)
        break
    assert status == signal.SIGKILL, status
"""
# Takes backups of a store that goes on working, each killed before another of the parts that it yields.
TAKING = """
import asyncio, os, signal, sys
from pathlib import Path
from ca.backup.export import export
from tests.ca.founded import NOW, opened
from tests.ca.running import make_decision

async def take(step):
    async with opened(Path(sys.argv[1])) as core:
        parts = export(core.store, taken=NOW)
        async for _ in parts:
            if step == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            step -= 1
            await core.store.decisions.insert([make_decision("c")])

for step in range(1000):
    child = os.fork()
    if child == 0:
        asyncio.run(take(step))
        os._exit(0)
    if (status := os.waitpid(child, 0)[1]) == 0:
        print(step)
        break
    assert status == signal.SIGKILL, status
"""


async def run_killed(script: str, *arguments: Path) -> int:
    """Run one of the scripts above; return how many steps it was killed at."""
    run = partial(subprocess.run, capture_output=True, text=True, timeout=600, check=False)
    ended = await asyncio.to_thread(run, [sys.executable, "-c", script, *map(str, arguments)])
    assert ended.returncode == 0, ended.stderr[-4000:]
    return int(ended.stdout.split()[-1])  # Before it stands what the CA has logged.


async def test_what_is_left_of_a_backup_that_was_killed_at_any_write_is_refused_or_whole(tmp_path: Path) -> None:
    async with founded.opened(tmp_path / "d") as core:
        await core.store.decisions.insert([make_decision(f"c{number}") for number in range(1_234)])
        whole = await take(core.store)
    (tmp_path / "whole").write_bytes(whole)
    (tmp_path / "left").mkdir()
    steps = await run_killed(WRITING, tmp_path / "whole", tmp_path / "left")
    assert steps > len(whole) // 65_536 + 5
    async with founded.opened(tmp_path / "other") as core:
        pin = core.authorities.root_pin
    left = {file.read_bytes() for file in (tmp_path / "left").glob("*/*")}
    assert whole in left and len(left) > len(whole) // 65_536
    assert all(file.read_bytes() == whole for file in (tmp_path / "left").glob("*/backup")), (
        "under its name it is whole"
    )
    for content in left - {whole}:
        with pytest.raises(InputError):
            await restore(content, tmp_path / "other", may_replace=True)
    async with founded.opened(tmp_path / "other") as core:
        assert core.authorities.root_pin == pin
    loaded = await restore(whole, tmp_path / "other", may_replace=True)
    assert loaded.counts["decisions"] == 1_234


async def test_a_ca_that_is_killed_at_any_part_of_a_backup_keeps_its_store(tmp_path: Path) -> None:
    async with founded.opened(tmp_path / "d") as core:
        await core.store.namespaces.set_mode("shop", Mode.EXPLICIT)
        pin = core.authorities.root_pin
    steps = await run_killed(TAKING, tmp_path / "d")
    assert steps > 5
    with contextlib.closing(sqlite3.connect(tmp_path / "d" / DATABASE_NAME)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    async with founded.opened(tmp_path / "d") as core:
        assert core.authorities.root_pin == pin
        loaded = await restore(await take(core.store), tmp_path / "elsewhere")
    # The run that was killed before part n has stored n decisions, the last one has stored one after each part.
    assert loaded.counts["decisions"] == sum(range(steps)) + steps
