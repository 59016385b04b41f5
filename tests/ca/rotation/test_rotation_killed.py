"""A CA that is killed before any write of a rotation: whoever opens the store goes on, and each step is taken once.

This runs on SQLite; of PostgreSQL a step is one transaction as well.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ca import founded
from tests.ca.backup.test_export import run_killed
from tests.ca.rotation.test_rotation import issue

# Rotates the issuer (or the root) to its end, killed before each statement that writes and each commit, in turn; after
# each kill another process goes on to the end and looks. Prints how many kills there were.
ROTATING = """
import asyncio, os, shutil, signal, sys
from pathlib import Path
from sqlalchemy import event
from ca.store.records import RotationKind
from shared.model.trust.bundle import AuthorityPhase
from tests.ca.founded import NOW, make_rotation, opened
from tests.ca.rotation.test_rotation import issue

KIND = RotationKind.ROOT if sys.argv[2].endswith("root") else RotationKind.ISSUER

async def rotate(directory, kills_at):
    async with opened(directory) as core:
        left = [kills_at]
        def count(*_):
            left[0] -= 1
            if left[0] == -1:
                os.kill(os.getpid(), signal.SIGKILL)
        def look(_connection, _cursor, statement, *_):
            if statement.lstrip().startswith(("INSERT", "UPDATE", "DELETE")):
                count()
        if kills_at >= 0:
            engine = core.store.database._engine.sync_engine
            event.listen(engine, "before_cursor_execute", look)
            event.listen(engine, "commit", count)
        rotation = make_rotation(core.store, core.authorities)
        if "prepared" not in [each.event for each in await core.store.authorities.list_journal()]:
            await rotation.start(kind=KIND, now=NOW)
        await core.store.sidecars.mark_bundle_installed("web-1", core.authorities.bundle().sequence)
        await rotation.advance(NOW)
        await issue(core)
        await rotation.advance(NOW + 3601)
        journal = [each.event for each in await core.store.authorities.list_journal()]
        records = await core.store.authorities.list_all()
        kinds = 2 if KIND is RotationKind.ROOT else 1
        assert [journal.count(each) for each in ("prepared", "active", "retired")] == [kinds, 1, 1], journal
        assert [bool(each.sealed_key) for each in records if each.phase is AuthorityPhase.RETIRED] == [False] * kinds
        assert [each.kind.value for each in records if each.phase is AuthorityPhase.ACTIVE].count("issuing") == 1

def run(directory, kills_at):
    child = os.fork()
    if child == 0:
        try:
            asyncio.run(rotate(directory, kills_at))
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]

for step in range(1000):
    directory = Path(sys.argv[2]) / str(step)
    shutil.copytree(sys.argv[1], directory)
    if (status := run(directory, step)) == 0:
        print(step)
        break
    assert status == signal.SIGKILL, status
    assert run(directory, -1) == 0, step
    shutil.rmtree(directory)
"""


@pytest.mark.parametrize("kind", ["issuer", "root"])
async def test_killed_before_any_write_a_rotation_is_finished_by_the_next_one(tmp_path: Path, kind: str) -> None:
    async with founded.opened(tmp_path / "d") as core:
        await founded.join(core, "web-1")
        await issue(core)
    (tmp_path / kind).mkdir()
    assert await run_killed(ROTATING, tmp_path / "d", tmp_path / kind) > 8
