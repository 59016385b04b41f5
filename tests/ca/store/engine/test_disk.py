"""A full disk: the reserve is given up for issuance and pruning, and filled again when there is room."""

from __future__ import annotations

import errno
import sqlite3
import subprocess
import sys
from pathlib import Path

from ca.store.engine.disk import Disk, is_disk_full

# In a mount namespace of its own, on a disk of 40 MiB.
FULL = """
import asyncio, sys
from pathlib import Path
from ca.metrics import Metrics
from ca.observation.decisions import Decisions, Retention
from ca.store.store import Store
from shared.model.errors import UnavailableError
from tests.ca.founded import KEK, NOW, WEB, join, make_csr
from tests.ca.running import make_decision
from ca.authority.authorities import Authorities
from ca.issuance import Issuance
from tests.ca.founded import Founded

async def main(directory):
    store = await Store.open(directory, trust_domain="mesh.test")
    authorities = await Authorities.open(store, KEK, now=NOW)
    core = Founded(store=store, authorities=authorities, issuance=Issuance(store, authorities))
    log = Decisions(store, metrics=Metrics(), limits=Retention(max_age_s=3600, max_rows=10**6, max_bytes=2**30))
    await join(core, "web-1")
    grant = (await store.sidecars.get("web-1")).grant
    await log.prune(now=NOW)
    assert (directory / "reserve").stat().st_size > 1_000_000
    batch = [make_decision(f"c{n}", time=NOW, detail="x" * 2000) for n in range(200)]
    for _ in range(200):
        try:
            await log.take_in(batch, instance="a", workload=WEB, lost=0)
        except UnavailableError as error:
            print("refused:", error.message)
            break
    assert not (directory / "reserve").exists()
    try:
        await log.take_in(batch, instance="a", workload=WEB, lost=0)
    except UnavailableError as error:
        print("still refused:", error.message)
    for _ in range(20):
        await core.issuance.issue_sidecar(grant, make_csr(), NOW)
    pruned = await log.prune(now=NOW + 7200)
    print("pruned", pruned)
    await log.prune(now=NOW + 7200)
    assert not store.database.is_disk_full
    await log.take_in(batch, instance="a", workload=WEB, lost=0)
    await store.close()
    print("done")

asyncio.run(main(Path(sys.argv[1])))
"""


def test_on_a_full_disk_issuance_and_pruning_go_on(tmp_path: Path) -> None:
    mount = f'mount -t tmpfs -o size=40m none "{tmp_path}" && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", mount, "sh", sys.executable, "-c", FULL, str(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "audited" not in line]  # The CA's own log.
    assert lines[0].startswith("refused: ") and "full" in lines[0]
    assert lines[1] == "still refused: the CA's disk is full: it takes no decisions"
    assert lines[-1] == "done"


def test_only_want_of_room_counts_as_such(tmp_path: Path) -> None:
    full = sqlite3.OperationalError("database or disk is full")
    full.sqlite_errorcode = sqlite3.SQLITE_FULL
    assert is_disk_full(full) and is_disk_full(OSError(errno.EDQUOT, "quota"))
    outer = RuntimeError("wrapped")
    outer.__cause__ = full
    assert is_disk_full(outer)
    assert not is_disk_full(sqlite3.OperationalError("locked")) and not is_disk_full(OSError(errno.EIO, "broken"))
    disk = Disk(tmp_path)
    disk.refill(unused_in_file=0)
    disk.note_failure(OSError(errno.EIO, "broken"))
    assert [(tmp_path / "reserve").exists(), disk.is_full] == [True, False]
    disk.note_failure(full)
    assert [(tmp_path / "reserve").exists(), disk.is_full] == [False, True]
    disk.refill(unused_in_file=0)
    assert [(tmp_path / "reserve").exists(), disk.is_full] == [True, False]
