"""Who holds a socket."""

import errno
import os
import socket
import threading

import pytest

from shared.model.policy.reasons import Reason
from sidecar.attest import holders
from sidecar.attest.facts import AttestationError
from sidecar.attest.holders import find_holder, find_holdings, find_own
from tests.sidecar.attest.processes import WAIT, hear, running


def test_this_process_is_found_unless_it_is_the_sidecar() -> None:
    with socket.socket() as held:
        inode = os.fstat(held.fileno()).st_ino
        process = find_holder(inode, os.getuid(), own_pid=0)
        assert process.pid == os.getpid()
        process.close()
        assert inode in find_own()
        assert find_holdings([inode], own_pid=0).holders == {inode: {os.getpid()}}
        assert find_holdings([inode], own_pid=os.getpid()).holders == {inode: set()}
        with pytest.raises(AttestationError) as caught:
            find_holder(inode, os.getuid(), own_pid=os.getpid())
        assert caught.value.reason is Reason.NO_OWNER


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

        monkeypatch.setattr("sidecar.attest.holders.os.open", fail)
        assert not find_holdings([], own_pid=os.getpid()).is_complete
        assert holders.is_holder(child.pid, 1)
        with pytest.raises(AttestationError) as caught:
            find_holder(1, os.getuid(), own_pid=os.getpid())
    assert caught.value.reason is Reason.OVERLOADED


def test_each_thread_with_a_table_of_its_own_is_a_place_and_those_that_share_one_arent() -> None:
    code = "import ctypes,sys,threading,time\nlibc = ctypes.CDLL(None)\nthere = threading.Barrier(9)\n"
    code += "def keep(own):\n    if own: libc.unshare(0x400)\n    there.wait()\n    time.sleep(600)\n"
    code += "for n in range(8): threading.Thread(target=keep, args=(n % 2,), daemon=True).start()\nthere.wait()\n"
    with running(code + WAIT) as child:
        places = list(holders._Search([], "/proc")._list_places(child.pid))
    assert len(set(places)) == len(places) == 5


def test_threads_that_share_a_table_are_one_place() -> None:
    waiting = threading.Event()
    threads = [threading.Thread(target=waiting.wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        search = holders._Search([], "/proc")
        assert list(search._list_places(os.getpid())) == [str(os.getpid())]
    finally:
        waiting.set()
        for thread in threads:
            thread.join()
