"""New processes that are looked at while their connection begins."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from sidecar.attest.holding import caught as module
from sidecar.attest.holding.caught import CaughtHolders
from sidecar.attest.netlink.sock_diag import ESTABLISHED, KernelSocket
from sidecar.sockets.address import Endpoint
from tests.sidecar.attest.processes import WAIT, look_among_all, running

DESTINATION = ("198.18.0.2", 5432)


@pytest.fixture
def caught(monkeypatch: pytest.MonkeyPatch) -> Iterator[CaughtHolders]:
    look_among_all(monkeypatch)
    made = CaughtHolders(own_pid=os.getpid())
    yield made
    made.close()


@pytest.fixture
def child_inode() -> Iterator[int]:
    """A socket that a new process holds."""
    with socket.socket() as one, running("import sys\n" + WAIT, pass_fds=(one.fileno(),)):
        yield os.fstat(one.fileno()).st_ino


def source(port: int) -> Endpoint:
    return "198.18.0.1", port


def describe(inode: int) -> KernelSocket:
    return KernelSocket(
        family=socket.AF_INET, state=ESTABLISHED, local=source(9), peer=DESTINATION, uid=0, inode=inode, cookie=1
    )


def test_a_new_process_is_kept_once_until_it_is_taken_or_forgotten(caught: CaughtHolders, child_inode: int) -> None:
    found = describe(child_inode)
    assert caught.catch(source(1), DESTINATION, found, "one kind")
    assert not caught.catch(source(2), DESTINATION, found, "one kind"), "one of its kind waits"
    assert caught.catch(source(2), DESTINATION, found, "another kind")
    taken = caught.take(source(1), DESTINATION)
    assert taken is not None
    assert caught.take(source(1), DESTINATION) is None
    with caught.measuring(taken):
        assert caught.look_at(found, "one kind") is None, "one of its kind is measured"
    taken.sighting.close()
    caught.forget(source(2), DESTINATION)
    assert not caught.has(source(2), DESTINATION)


def test_two_of_one_kind_may_be_measured_at_once(caught: CaughtHolders, child_inode: int) -> None:
    """One is looked at when it dials, the other when its connection is accepted."""
    found = describe(child_inode)
    first, second = caught.look_at(found, "one kind"), caught.look_at(found, "one kind")
    assert first is not None
    assert second is not None
    with caught.measuring(first):
        with caught.measuring(second):
            assert caught.find_measured("one kind") is second
        assert caught.find_measured("one kind") is None
    ended_first, ended_last = caught.measuring(first), caught.measuring(second)
    ended_first.__enter__()
    ended_last.__enter__()
    ended_first.__exit__(None, None, None)
    assert caught.find_measured("one kind") is second
    ended_last.__exit__(None, None, None)
    for each in (first, second):
        each.sighting.close()


def test_no_more_are_kept_than_have_room(
    caught: CaughtHolders, child_inode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_CAUGHT", 2)
    for port in (1, 2, 3):
        assert caught.catch(source(port), DESTINATION, describe(child_inode), port)
    assert [caught.has(source(port), DESTINATION) for port in (1, 2, 3)] == [False, True, True]


def test_looks_that_find_nothing_are_followed_by_a_rest(
    caught: CaughtHolders, child_inode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_REST_FACTOR", 1e9)
    assert not caught.catch(source(1), DESTINATION, describe(1), "nobody's")
    assert not caught.catch(source(1), DESTINATION, describe(child_inode), "a new one's")
