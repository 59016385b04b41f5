"""One holder for each of many sockets."""

import asyncio
import os
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest

from shared.model.policy.reasons import Reason
from sidecar.attest.facts import AttestationError
from sidecar.attest.holding import owner
from sidecar.attest.holding.owner import OwnerSearch, find_owners
from tests.sidecar.attest.processes import WAIT, running

pytestmark = pytest.mark.usefixtures("engine")


async def test_one_walk_serves_all_who_wait_and_tells_who_has_no_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    walks: list[int] = []

    def count(wanted: Mapping[int, int], *, own_pid: int) -> dict[int, int]:
        walks.append(len(wanted))
        return find_owners(wanted, own_pid=own_pid)

    monkeypatch.setattr(owner, "find_owners", count)
    with socket.socket() as one, socket.socket() as other, ThreadPoolExecutor(1) as workers:
        search = OwnerSearch(workers, own_pid=0)
        inodes = [os.fstat(each.fileno()).st_ino for each in (one, other)]
        found = await asyncio.gather(
            *(search.find(inode, os.getuid()) for inode in (*inodes, *inodes, 1)), return_exceptions=True
        )
        search.close()
    assert [each[0] for each in found[:4] if isinstance(each, tuple)] == [os.getpid()] * 4
    assert isinstance(found[4], AttestationError)
    assert found[4].reason is Reason.NO_OWNER
    assert walks == [3]


def test_the_youngest_holder_is_found_first() -> None:
    with socket.socket() as held, running("import sys\n" + WAIT, pass_fds=(held.fileno(),)) as child:
        inode = os.fstat(held.fileno()).st_ino
        assert find_owners({inode: os.getuid()}, own_pid=0) == {inode: max(child.pid, os.getpid())}


async def test_closing_cancels_who_still_waits() -> None:
    with ThreadPoolExecutor(1) as workers:
        search = OwnerSearch(workers, own_pid=0)
        waiting = asyncio.ensure_future(search.find(1, 0))
        await asyncio.sleep(0)
        search.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting
