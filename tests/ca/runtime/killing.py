"""Runs of ``python -m ca restore`` and ``rewrap`` that are killed before each of their steps on the disk, in turn.

One process forks all runs: starting Python for each would take a second.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from ca.__main__ import main
from ca.authority.founding import open_authority
from ca.authority.kek import KekOrigin, parse_key
from ca.backup.restore import DRAFT
from ca.store.engine.database import DATABASE_NAME
from ca.store.records import AuthorityKind, AuthorityRecord
from shared.model.trust.bundle import AuthorityPhase

STEPS = ("open", "fsync", "link", "unlink", "replace", "mkdir", "rmdir")


def kill_before(step: int) -> None:
    """Kill this process before that step on the disk."""
    left = [step]

    def count() -> None:
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            count()
            return function(*arguments, **options)

        return call

    for name in STEPS:
        setattr(os, name, wrap(getattr(os, name)))
    sqlite3.connect = wrap(sqlite3.connect)  # It folds the log into the file.
    event.listen(Engine, "commit", lambda _connection: count())


def run(arguments: Sequence[str], *, kill_at: int | None = None) -> bool:
    """Run in a child; return whether it ended by itself."""
    child = os.fork()
    if child == 0:
        code = 3
        try:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (the child ends)
            if kill_at is not None:
                kill_before(kill_at)
            code = main(arguments)
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), status
    return status == 0


def read_roots(directory: Path, *keys: Path) -> tuple[list[str], int]:
    """Return the roots of a store that must be whole, and how many of its keys one of the key files opens."""
    with sqlite3.connect(directory / "data" / DATABASE_NAME) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.row_factory = sqlite3.Row
        rows = connection.execute("SELECT * FROM authorities").fetchall()
    connection.close()
    keks = [parse_key(path.read_text(), origin=KekOrigin.FILE, source=str(path)) for path in keys if path.exists()]
    opened = 0
    for row in rows:
        values = {**dict(row), "kind": AuthorityKind(row["kind"]), "phase": AuthorityPhase(row["phase"])}
        record = AuthorityRecord(**values)
        for kek in keks:
            if record.sealed_key[1:9].hex() == kek.key_id:
                open_authority(record, kek)
                opened += 1
    return sorted(row["authority_id"] for row in rows if row["kind"] == "root"), opened


def enumerate_restore(directory: Path, file: Path, key: Path) -> int:
    """Kill a restore before each step: the old store is there, or the new one; repeated it succeeds."""
    places = ["--data-dir", str(directory / "data"), "--kek-file", str(directory / "kek")]
    command = ["restore", str(file), "--key-file", str(key), *places]
    spare = directory / "spare"
    shutil.copytree(directory / "data", spare)
    old, seen, step = read_roots(directory)[0], set[bool](), 0
    while True:
        shutil.rmtree(directory / "data")
        shutil.copytree(spare, directory / "data")
        has_ended = run([*command, "--replace"], kill_at=step)
        roots, opened = read_roots(directory, directory / "kek", directory / "kek-old")
        assert len(roots) == 1 and opened == 2, (step, roots, opened)
        seen.add(roots == old)
        if has_ended:
            assert roots != old and seen == {True, False}
            assert not (directory / "data" / DRAFT).exists()
            return step
        step += 1


def enumerate_rewrap(directory: Path) -> int:
    """Kill a rewrap before each step: one of the keys that are there opens the store; repeated it succeeds."""
    kek, spare = directory / "kek", directory / "spare"
    command = ["rewrap", "--data-dir", str(directory / "data"), "--kek-file", str(kek)]
    shutil.copytree(directory / "data", spare / "data")
    shutil.copy(kek, spare / "kek")
    step = 0
    while True:
        for path in directory.glob("kek*"):
            path.unlink()
        for path in directory.glob(".kek*"):
            path.unlink()
        shutil.rmtree(directory / "data")
        shutil.copytree(spare / "data", directory / "data")
        shutil.copy(spare / "kek", kek)
        has_ended = run(command, kill_at=step)
        assert read_roots(directory, *directory.glob("kek*"))[1] == 2, step
        if has_ended:
            return step
        assert run(command)
        assert read_roots(directory, kek)[1] == 2, step
        step += 1


def count_steps(*arguments: str | Path) -> int:
    """Run this module's enumeration in a process of its own; return how many steps it killed at."""
    command = [sys.executable, "-m", "tests.ca.runtime.killing", *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=620, check=False)
    assert ended.returncode == 0, ended.stderr[-4000:]
    return int(ended.stdout)


if __name__ == "__main__":
    places = [Path(argument) for argument in sys.argv[2:]]
    print(enumerate_restore(*places) if sys.argv[1] == "restore" else enumerate_rewrap(*places))
