"""Single looks at where a process keeps sockets."""

import os
import socket
import threading
from collections.abc import Callable

import pytest

from sidecar.attest.holding.tables import (
    NewTasks,
    find_in_table,
    holds_any,
    inode_of,
    is_running,
    is_socket,
    list_links,
    outranks,
    read_leader,
    read_protocol,
    read_table,
    read_users,
)
from tests.sidecar.attest.processes import WAIT, running

pytestmark = pytest.mark.usefixtures("engine")


def test_the_newest_descriptor_can_come_first() -> None:
    with socket.socket() as first, socket.socket() as second:
        numbers = [int(name) for name, _ in list_links(os.getpid(), "self", newest_first=True)]
        assert numbers == sorted(numbers, reverse=True)
        links = dict(list_links(os.getpid(), "self"))
        assert inode_of(links[str(first.fileno())]) == os.fstat(first.fileno()).st_ino
        assert inode_of(links[str(second.fileno())]) == os.fstat(second.fileno()).st_ino


def test_a_table_is_read_as_far_as_the_limit_and_a_socket_found_at_its_newest_descriptor() -> None:
    with socket.socket() as first, socket.socket() as second:
        inodes = [os.fstat(each.fileno()).st_ino for each in (first, second)]
        copy = os.dup(first.fileno())
        try:
            table = read_table(os.getpid(), "self", 10_000)
            assert table.looked < 10_000
            sockets = list(table.sockets)
            assert {(inodes[0], first.fileno()), (inodes[1], second.fileno()), (inodes[0], copy)} <= set(sockets)
            assert list(table.rings) == []
            assert find_in_table(os.getpid(), [1, *inodes]) == {inodes[0]: copy, inodes[1]: second.fileno()}
        finally:
            os.close(copy)
    assert read_table(os.getpid(), "self", 2).looked == 2
    nothing = read_table(os.getpid(), "self", 0)
    assert (nothing.looked, list(nothing.sockets)) == (0, [])


def test_who_has_ended_has_no_table() -> None:
    with running("import sys\n" + WAIT) as child:
        pass
    assert read_table(child.pid, str(child.pid), 10).looked == 0
    assert find_in_table(child.pid, [1]) == {}


def test_a_process_holds_what_any_of_its_tables_has_and_what_cant_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as one:
        inode = os.fstat(one.fileno()).st_ino
        assert holds_any(os.getpid(), [1, inode])
    assert not holds_any(os.getpid(), [inode])
    monkeypatch.setattr("sidecar.attest.holding.tables._MAX_LOOKED_AT", 1)
    assert holds_any(os.getpid(), [inode])


@pytest.mark.parametrize(
    ("make", "protocol"),
    [
        (lambda: socket.socket(), "TCP"),
        (lambda: socket.socket(socket.AF_INET6), "TCPv6"),
        (lambda: socket.socket(socket.AF_UNIX), "UNIX-STREAM"),
        (lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM), "UDP"),
    ],
)
def test_the_kernel_tells_a_sockets_protocol_also_before_it_is_bound(
    make: Callable[[], socket.socket], protocol: str
) -> None:
    with make() as one, socket.socket() as other:
        inode = os.fstat(one.fileno()).st_ino
        assert is_socket("self", str(one.fileno()), inode)
        assert read_protocol("self", str(one.fileno()), inode) == protocol
        assert not is_socket("self", str(other.fileno()), inode)
        assert read_protocol("self", str(other.fileno()), inode) is None
    assert not is_socket("self", "1048575", inode)
    assert read_protocol("self", "1048575", inode) is None


def test_new_tasks_are_told_once_processes_and_threads_alike() -> None:
    tasks = NewTasks()
    try:
        with running("import sys\n" + WAIT) as child:
            thread = threading.Thread(target=lambda: None)
            thread.start()
            assert tasks.has_news()
            new = tasks.take(100_000)
            assert new is not None
            assert child.pid in new
            assert thread.native_id in new
            thread.join()
            assert read_leader(child.pid) == child.pid
        assert read_leader(child.pid) == 0
        assert tasks.take(100_000) is not None
    finally:
        tasks.close()


def test_more_new_tasks_than_asked_for_are_not_listed() -> None:
    tasks = NewTasks()
    try:
        with running("import sys\n" + WAIT):
            assert tasks.take(0) is None
    finally:
        tasks.close()


def test_new_tasks_are_counted_on_after_the_last_number(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = NewTasks()
    try:
        last = tasks._max - 2
        tasks.last = last
        monkeypatch.setattr(NewTasks, "read", lambda _: 3)
        assert tasks.take(10) == (last + 1, last + 2, 1, 2, 3)
        tasks.last = last
        assert tasks.take(4) is None
    finally:
        tasks.close()


def test_who_has_ended_or_only_has_an_end_to_be_waited_for_doesnt_run() -> None:
    with running("import sys\n" + WAIT) as child:
        assert is_running(child.pid)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert not is_running(child.pid)
        child.wait()
        assert not is_running(child.pid)


def test_users_are_those_of_the_process_and_nobody_outranks_itself() -> None:
    assert read_users(os.getpid()) == {os.getuid()}
    assert not outranks(os.getpid())
