"""Who holds a socket."""

import errno
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from sidecar.attest.holding import holders
from sidecar.attest.holding.clearance import look_at_tasks
from sidecar.attest.holding.holders import Passes, find_holdings
from sidecar.attest.holding.owner import find_own, find_owners
from sidecar.attest.holding.tables import NewTasks, Table, list_tables, read_table
from tests.sidecar.attest.processes import AS_HIDDEN_NOBODY, AS_NOBODY, NOBODY, WAIT, hear, running

ROOT = Path(__file__).parents[4]


def test_this_process_is_found_unless_it_is_the_sidecar() -> None:
    with socket.socket() as held:
        inode = os.fstat(held.fileno()).st_ino
        assert find_owners({inode: os.getuid()}, own_pid=0) == {inode: os.getpid()}
        assert inode in find_own()
        assert find_holdings([inode], own_pid=0).holders == {inode: {os.getpid()}}
        assert find_holdings([inode], own_pid=os.getpid()).holders == {inode: set()}
        assert find_owners({inode: os.getuid()}, own_pid=os.getpid()) == {}


# In a child: a socket that only the place under test still holds. ``{}`` keeps it there and closes the descriptor.
_HIDE = """
import array,ctypes,os,socket,sys,threading,time
libc = ctypes.CDLL(None, use_errno=True)
held = socket.socket()
inode = os.fstat(held.fileno()).st_ino
{}
print('ready', flush=True)
print(inode, flush=True)
{}
"""
_IN_A_THREAD = """
kept = threading.Event()
def keep():
    assert libc.unshare(0x400) == 0  # CLONE_FILES
    kept.set()
    time.sleep(600)
threading.Thread(target=keep, daemon=True).start()
kept.wait()
held.close()
"""
_BEHIND_A_DEAD_LEADER = """
def speak():
    time.sleep(0.2)  # The main thread has exited by then.
    print('ready', flush=True)
    print(inode, flush=True)
    time.sleep(600)
threading.Thread(target=speak).start()
libc.syscall(60, 0)  # exit(2): of this thread alone
"""
_IN_A_RING = """
parameters = ctypes.create_string_buffer(120)
ring = libc.syscall(425, 8, parameters)  # io_uring_setup
assert ring >= 0, ctypes.get_errno()
files = (ctypes.c_int * 3)(-1, held.fileno(), -1)
assert libc.syscall(427, ring, 2, files, 3) == 0, ctypes.get_errno()  # io_uring_register, IORING_REGISTER_FILES
held.close()
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="system call numbers of x86-64")
@pytest.mark.parametrize(
    "code", [_IN_A_THREAD, _BEHIND_A_DEAD_LEADER, _IN_A_RING], ids=["thread's own table", "dead leader", "io_uring"]
)
def test_a_socket_is_found_wherever_a_process_can_keep_it(code: str) -> None:
    with running(_HIDE.format(code, "time.sleep(600)")) as child:
        inode = int(hear(child))
        found = find_holdings([inode], own_pid=os.getpid())
        assert found.holders == {inode: {child.pid}}
        assert found.is_complete


def test_more_descriptors_than_may_be_looked_at_are_no_complete_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holders, "MAX_DESCRIPTORS", 3)
    with running("import sys\n" + WAIT):
        assert not find_holdings([], own_pid=os.getpid()).is_complete


def test_a_pass_without_descriptors_left_is_no_complete_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """What couldn't be looked at for want of descriptors isn't taken for a process that has ended."""
    with running("import sys\n" + WAIT) as child:
        real = os.open

        def fail(path: str, flags: int, *rest: int, **more: int) -> int:
            if path == f"/proc/{child.pid}/fd":
                raise OSError(errno.EMFILE, "no descriptors left")
            return real(path, flags, *rest, **more)

        monkeypatch.setattr("sidecar.attest.holding.tables.os.open", fail)
        assert not find_holdings([], own_pid=os.getpid()).is_complete
        assert holders.is_holder(child.pid, 1)
        with pytest.raises(OSError, match="no descriptors left"):
            find_owners({1: os.getuid()}, own_pid=os.getpid())


def test_each_thread_with_a_table_of_its_own_is_a_place_and_those_that_share_one_arent() -> None:
    code = "import ctypes,sys,threading,time\nlibc = ctypes.CDLL(None)\nthere = threading.Barrier(9)\n"
    code += "def keep(own):\n    if own: libc.unshare(0x400)\n    there.wait()\n    time.sleep(600)\n"
    code += "for n in range(8): threading.Thread(target=keep, args=(n % 2,), daemon=True).start()\nthere.wait()\n"
    with running(code + WAIT) as child:
        places = list(list_tables(child.pid))
    assert len(set(places)) == len(places) == 5


def test_threads_that_share_a_table_are_one_place() -> None:
    waiting = threading.Event()
    threads = [threading.Thread(target=waiting.wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        assert list(list_tables(os.getpid())) == [str(os.getpid())]
    finally:
        waiting.set()
        for thread in threads:
            thread.join()


# A chain of processes that holds the socket: each forks the next one and exits at once.
_CHAIN = """
import os,socket,sys,time
held = socket.socket()
print('ready', flush=True)
print(os.fstat(held.fileno()).st_ino, flush=True)
end = time.monotonic() + 600
while time.monotonic() < end and os.path.exists(sys.argv[1]):
    if os.fork():
        os._exit(0)
"""


def test_a_holder_that_forks_and_exits_all_the_time_is_met_or_its_user_is_told(tmp_path: Path) -> None:
    goes_on = tmp_path / "goes on"
    goes_on.touch()
    with running(_CHAIN, str(goes_on)) as child:
        try:
            inode = int(hear(child))
            for _ in range(40):
                found = find_holdings([inode], own_pid=os.getpid())
                assert found.holders[inode] or not found.is_complete or os.getuid() in found.missed
        finally:
            goes_on.unlink()


FORKS = """
print('ready', flush=True)
while True:
    if not (child := os.fork()):
        os._exit(0)
    os.waitpid(child, 0)
"""


# In a process namespace of its own: other tests' processes, which are root's, come and go as well.
_PASSES = """
import json, os
from contextlib import ExitStack
from sidecar.attest.holding.holders import find_holdings
from tests.sidecar.attest.holding.test_holders import FORKS
from tests.sidecar.attest.processes import AS_NOBODY, running
with ExitStack() as stack:
    for _ in range(4):
        stack.enter_context(running(AS_NOBODY + FORKS))
    found = [find_holdings([], own_pid=os.getpid()) for _ in range(10)]
print(json.dumps([[each.is_complete, sorted(each.missed)] for each in found]))
"""


@pytest.mark.needs_root
def test_what_another_user_forks_all_the_time_leaves_passes_complete_for_all_others() -> None:
    apart = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child=KILL"]
    ran = subprocess.run(
        [*apart, sys.executable, "-c", _PASSES], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert sum(is_complete and set(missed) <= {NOBODY} for is_complete, missed in found) >= 8, found


def test_threads_that_come_and_go_are_their_users(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = count(1 << 23)  # Above all that the kernel gives: a small one may be a thread of this very process.
    monkeypatch.setattr(holders, "list_threads", lambda *_: [str(os.getpid()), str(next(numbers))])
    search = holders._Search([], {}, own_pid=0, proc="/proc")
    search.look_at(os.getpid())
    assert search.restless == {os.getuid()}


def test_a_task_that_comes_during_a_pass_is_looked_at_as_well() -> None:
    with socket.socket() as held:
        inode = os.fstat(held.fileno()).st_ino
        search = holders._Search([inode], {}, own_pid=os.getpid(), proc="/proc")
        tasks = NewTasks()
        try:
            with running("import sys\n" + WAIT, pass_fds=(held.fileno(),)) as child:
                search.catch_up(tasks)
        finally:
            tasks.close()
    assert search.holders == {inode: {child.pid}}


def _as_nobody(look: Callable[[], dict[int, frozenset[int]]]) -> dict[int, set[int]]:
    """Look in a forked child without any rights."""
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            os.write(writes, json.dumps({pid: sorted(users) for pid, users in look().items()}).encode())
        finally:
            os._exit(0)
    os.close(writes)
    with open(reads, "rb") as file:
        told = json.load(file)
    os.waitpid(child, 0)
    return {int(pid): set(users) for pid, users in told.items()}


@pytest.mark.needs_root
def test_what_an_unprivileged_sidecar_may_not_inspect_is_told_with_its_user() -> None:
    code = "import sys\n" + WAIT
    with running(AS_HIDDEN_NOBODY + code) as hidden, running(AS_NOBODY + code) as plain:
        told = _as_nobody(lambda: find_holdings([], own_pid=0).hidden)
    assert told[hidden.pid] == {NOBODY}
    assert plain.pid not in told


def test_who_shares_a_tcp_socket_is_told_and_other_sockets_dont_count() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.socket() as tcp:
        with running("import sys\n" + WAIT, pass_fds=(ours.fileno(),)) as child:
            found = Passes(own_pid=0).find([], {child.pid})
            assert found.sharers == {child.pid: frozenset()}
        with running("import sys\n" + WAIT, pass_fds=(tcp.fileno(),)) as child:
            found = Passes(own_pid=0).find([], {child.pid})
            assert found.sharers == {child.pid: {os.getpid()}}


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="system call numbers of x86-64")
def test_who_shares_a_tcp_socket_in_an_io_uring_instance_only_is_told() -> None:
    """Else the program that holds it as well would count as cleared, and its first byte wouldn't wait for a pass."""
    with socket.socket() as tcp:
        code = _HIDE.replace("socket.socket()", f"socket.socket(fileno={tcp.fileno()})").format(_IN_A_RING, "input()")
        with running(code, pass_fds=(tcp.fileno(),)) as child:
            assert int(hear(child)) == os.fstat(tcp.fileno()).st_ino
            assert Passes(own_pid=0).find([], {os.getpid()}).sharers == {os.getpid(): {child.pid}}
            assert look_at_tasks((), (child.pid,), 100, own_pid=0) is None


def _swap(*, times: int, descriptors: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process's descriptors change places after each of so many readings of its table."""
    left = iter(range(times))

    def read(pid: int, place: str, limit: int, proc: str) -> Table:
        table = read_table(pid, place, limit, proc)
        sockets = list(table.sockets)
        if next(left, None) is not None:
            first, second = descriptors
            kept = os.dup(first)
            os.dup2(second, first)
            os.dup2(kept, second)
            os.close(kept)
        return Table(looked=table.looked, sockets=sockets, rings=table.rings)

    monkeypatch.setattr(holders, "read_table", read)


@pytest.mark.usefixtures("engine")
def test_a_socket_that_changes_places_under_the_look_hides_no_descriptor_in_flight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.socket() as parked, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        socket.send_fds(ours, [b"x"], [parked.fileno()])
        inode = os.fstat(theirs.fileno()).st_ino
        kinds: dict[int, int] = {}
        _swap(times=1, descriptors=(theirs.fileno(), udp.fileno()), monkeypatch=monkeypatch)
        search = holders._Search([], kinds, own_pid=0, proc="/proc")
        search.look_at(os.getpid())
        assert search.in_flight == {inode: {os.getpid()}}
        assert kinds[inode] == holders._UNIX
        assert not search.restless
        # Its kind is known now: fdinfo alone tells of another socket.
        _swap(times=1, descriptors=(theirs.fileno(), udp.fileno()), monkeypatch=monkeypatch)
        search = holders._Search([], kinds, own_pid=0, proc="/proc")
        search.look_at(os.getpid())
        assert search.in_flight == {inode: {os.getpid()}}
        _swap(times=100, descriptors=(theirs.fileno(), udp.fileno()), monkeypatch=monkeypatch)
        for known in ({}, kinds):
            search = holders._Search([], known, own_pid=0, proc="/proc")
            search.look_at(os.getpid())
            assert search.restless == {os.getuid()}
            assert holders.is_holder(os.getpid(), 1)


@pytest.mark.usefixtures("engine")
def test_a_tcp_socket_that_changes_places_under_the_look_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        inode = os.fstat(tcp.fileno()).st_ino
        for times in (1, 100):
            kinds: dict[int, int] = {}
            _swap(times=times, descriptors=(tcp.fileno(), udp.fileno()), monkeypatch=monkeypatch)
            search = holders._Search([], kinds, own_pid=0, proc="/proc")
            other = os.getpid() + 1  # In a container the tests may be process 1.
            search._note_tcp(inode, other)
            search.look_at(os.getpid())
            assert search.find_sharers([other]) == {other: {os.getpid()}}
            assert kinds.get(inode, holders._TCP) == holders._TCP


@pytest.mark.usefixtures("engine")
def test_sockets_that_are_closed_under_the_look_make_nobody_suspect(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server's connections end all the time."""
    opened: list[socket.socket] = []

    def read(pid: int, place: str, limit: int, proc: str) -> Table:
        opened.append(socket.socket())
        table = read_table(pid, place, limit, proc)
        sockets = list(table.sockets)
        opened.pop().close()
        return Table(looked=table.looked, sockets=sockets, rings=table.rings)

    monkeypatch.setattr(holders, "read_table", read)
    search = holders._Search([], {}, own_pid=0, proc="/proc")
    search.look_at(os.getpid())
    assert not search.restless
    assert search.is_complete


@pytest.mark.usefixtures("engine")
def test_an_io_uring_instance_that_is_something_else_by_then_may_hold_anything(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with open(tmp_path / "file", "rb") as file:

        def read(pid: int, place: str, limit: int, proc: str) -> Table:
            return Table(looked=1, sockets=(), rings=(file.fileno(),))

        monkeypatch.setattr(holders, "read_table", read)
        search = holders._Search([], {}, own_pid=0, proc="/proc")
        search.look_at(os.getpid())
    assert search.restless == {os.getuid()}


def test_a_kernel_that_may_leave_registered_files_out_is_told_by_its_version() -> None:
    assert [holders.shows_rings_whole(each) for each in ("6.18.44-x", "6.16", "7.0.1", "10.2")] == [True] * 4
    assert not any(holders.shows_rings_whole(each) for each in ("6.15.9", "6.1.0-18-amd64", "5.15.0", "", "next"))


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="system call numbers of x86-64")
def test_a_ring_that_shows_none_of_its_places_may_hold_anything_of_its_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a kernel before Linux 6.16 shows one whose lock is held."""
    monkeypatch.setattr(holders, "_SHOWS_RINGS_WHOLE", False)
    empty = _IN_A_RING.replace("held.fileno()", "-1")
    with running(_HIDE.format(empty, "time.sleep(600)")) as child:
        hear(child)
        assert os.getuid() in find_holdings([1], own_pid=os.getpid()).missed
