"""One process held by descriptors."""

import os
import socket
from types import SimpleNamespace

import pytest

from shared.model.policy.reasons import Reason
from sidecar.attest.facts import AttestationError
from sidecar.attest.holding.tables import list_links
from sidecar.attest.process import THREADS_AGE_S, FileKey, Process
from tests.sidecar.attest.processes import CONNECT, PYTHON, WAIT, listening, running, tell

pytestmark = pytest.mark.usefixtures("engine")
SEIZE = (
    "import ctypes,sys\nl=ctypes.CDLL(None,use_errno=True)\n"
    "assert l.ptrace(0x4206,int(sys.argv[1]),None,None)==0,ctypes.get_errno()\n" + WAIT
)


def test_a_held_process_is_never_mistaken_for_its_successor() -> None:
    with running("import sys\n" + WAIT) as child:
        process = Process(child.pid)
        assert process.facts.path == PYTHON
        assert not process.has_ended()
        assert not process.has_executed()
    assert process.has_ended()
    with pytest.raises(AttestationError) as caught:
        process.has_executed()
    assert caught.value.reason is Reason.PROCESS_VANISHED
    process.close()
    with pytest.raises(AttestationError):
        Process(child.pid)


def test_descriptors_taken_in_turn_are_found_without_a_list() -> None:
    process = Process(os.getpid())
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(12)]
    try:
        inodes = [os.fstat(each.fileno()).st_ino for each in servers]
        names = [process.find_descriptor(inode, max_descriptors=1_000) for inode in inodes]
        assert names == [str(each.fileno()) for each in servers]
        # ``max_descriptors=0`` looks at remembered ones only: the one found longest ago is always the next here.
        assert [process.find_descriptor(inode) for inode in inodes * 2] == names * 2
        assert not process.find_descriptor(1)
    finally:
        process.close()
        for each in servers:
            each.close()


def test_where_descriptors_come_back_in_turn_the_one_found_longest_ago_is_looked_at_first() -> None:
    process = Process(os.getpid())
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(5)]
    try:
        inodes = [os.fstat(each.fileno()).st_ino for each in servers]
        names = [process.find_descriptor(inode, max_descriptors=1_000) for inode in inodes]
        assert str(process._list_hints("", 0)[0]) == names[-1]  # So far each was a new one.
        assert process.find_descriptor(inodes[0]) == names[0]
        assert str(process._list_hints("", 0)[0]) == names[1]
        assert process.find_descriptor(inodes[0]) == names[0]  # The same again.
        assert str(process._list_hints("", 0)[0]) == names[0]
    finally:
        process.close()
        for each in servers:
            each.close()


def test_before_a_table_is_searched_more_places_are_looked_at() -> None:
    process = Process(os.getpid())
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(20)]
    try:
        for each in servers:
            process.find_descriptor(os.fstat(each.fileno()).st_ino, max_descriptors=1_000)
        names = [str(each.fileno()) for each in servers]
        assert [name for name in names if int(name) in process._list_hints("", 0)] == [*names[:4], names[-1]]
        assert [name for name in names if int(name) in process._list_hints("", 1)] == [*names[:12], names[-1]]
    finally:
        process.close()
        for each in servers:
            each.close()


def test_the_newest_of_many_descriptors_is_found_without_a_list_or_a_memory() -> None:
    """More than may be listed: a new one has the lowest free number, near the count."""
    servers = [socket.socket() for _ in range(400)]
    process = Process(os.getpid())
    try:
        inode = os.fstat(servers[-1].fileno()).st_ino
        assert process.find_descriptor(inode, max_descriptors=256) == str(servers[-1].fileno())
        oldest = os.fstat(servers[0].fileno()).st_ino
        assert process.find_descriptor(oldest, max_descriptors=256) == ""
        assert process.find_descriptor(oldest, max_descriptors=1_000) == str(servers[0].fileno())
    finally:
        process.close()
        for each in servers:
            each.close()


def test_a_process_that_holds_a_socket_is_compared_with_what_it_ran() -> None:
    code = CONNECT + "os.set_inheritable(c.fileno(), True)\n" + WAIT + "os.execv('/bin/sleep', ['sleep', '600'])"
    with listening() as server, running(code, str(server.getsockname()[1])) as child:
        process = Process(child.pid)
        try:
            inode = next(
                int(link[8:-1]) for _, link in list_links(child.pid, str(child.pid)) if link.startswith("sock")
            )
            key = process.read_executable()
            assert process.find_and_compare(inode, key) == ("", False), "it was never seen to hold one"
            assert process.find_and_compare(inode + 1, key, max_descriptors=256) == ("", False)
            descriptor, is_current = process.find_and_compare(inode, key, max_descriptors=256)
            assert os.readlink(f"/proc/{child.pid}/fd/{descriptor}") == f"socket:[{inode}]"
            assert is_current
            assert process.find_and_compare(inode, key) == (descriptor, True), "found where it was found"
            assert process.find_and_compare(inode, FileKey((*key[:4], 0))) == (descriptor, False)
            assert process.find_and_compare(inode, key, hint="4000000000") == (descriptor, True)
            tell(child)
            while not process.has_executed():
                pass
            assert process.find_and_compare(inode, key) == (descriptor, False)
            child.kill()
            child.wait()
            assert process.find_and_compare(inode, key) == ("", False)
        finally:
            process.close()


def test_a_debugger_of_the_first_thread_is_met_at_the_latest_after_the_age_of_one_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor does a look serve that has met one, and what the process executes is looked at each time."""
    now = 1_000.0
    monkeypatch.setattr("sidecar.attest.process.time", SimpleNamespace(monotonic=lambda: now))
    code = CONNECT + "os.set_inheritable(c.fileno(), True)\n" + WAIT + "os.execv('/bin/sleep', ['sleep', '600'])"
    with listening() as server, running(code, str(server.getsockname()[1])) as child:
        process = Process(child.pid)
        try:
            inode = next(
                int(link[8:-1]) for _, link in list_links(child.pid, str(child.pid)) if link.startswith("sock")
            )
            key = process.read_executable()
            descriptor, _ = process.find_and_compare(inode, key, max_descriptors=256)
            with running(SEIZE, str(child.pid)):
                now += THREADS_AGE_S - 0.001
                assert process.find_and_compare(inode, key) == (descriptor, True), "by the look before"
                now += 0.002
                for _ in range(2):
                    with pytest.raises(AttestationError) as caught:
                        process.find_and_compare(inode, key)
                    assert caught.value.reason is Reason.PROCESS_TRACED
            assert process.find_and_compare(inode, key) == (descriptor, True), "it isn't traced any more"
            tell(child)
            while not process.has_executed():
                pass
            assert process.find_and_compare(inode, key) == (descriptor, False), "however fresh that look is"
        finally:
            process.close()


def test_of_many_threads_each_look_sees_the_next_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """A debugger of any of them is met after as many looks as there are times 32 threads."""
    monkeypatch.setattr("sidecar.attest.process.THREADS_AGE_S", 0.0)
    code = "import sys,threading,time\nthreads=[threading.Thread(target=time.sleep,args=(600,),daemon=True)"
    code += " for _ in range(79)]\nfor each in threads: each.start()\n" + WAIT
    with running(code) as child:
        process = Process(child.pid)
        threads = sorted(map(int, os.listdir(f"/proc/{child.pid}/task")))
        for traced in (threads[1], threads[40], threads[-1]):
            for _ in range(3):
                process.refuse_traced_threads()
            with running(SEIZE, str(traced)):
                with pytest.raises(AttestationError) as caught:
                    for _ in range(3):
                        process.refuse_traced_threads()
                assert caught.value.reason is Reason.PROCESS_TRACED
        process.close()
