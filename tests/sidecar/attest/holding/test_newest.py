"""The newest processes are looked through for a socket's holder."""

from __future__ import annotations

import os
import socket

import pytest

from sidecar.attest.holding import newest
from sidecar.attest.holding.newest import find_among_newest
from sidecar.attest.holding.tables import HiddenError, find_in_table
from tests.sidecar.attest.processes import WAIT, look_among_all, running

pytestmark = pytest.mark.usefixtures("engine")


def test_a_new_process_is_found_and_the_sidecar_never(monkeypatch: pytest.MonkeyPatch) -> None:
    look_among_all(monkeypatch)
    with socket.socket() as one, running("import sys\n" + WAIT, pass_fds=(one.fileno(),)) as child:
        inode = os.fstat(one.fileno()).st_ino
        found = find_among_newest(inode, own_pid=os.getpid())
        assert found is not None
        assert found.pid == child.pid
        found.close()
        one.close()
        assert find_among_newest(inode, own_pid=child.pid) is None


def test_a_process_with_many_descriptors_is_left_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    look_among_all(monkeypatch)
    monkeypatch.setattr(newest, "_MAX_DESCRIPTORS", 0)
    with socket.socket() as one, running("import sys\n" + WAIT, pass_fds=(one.fileno(),)):
        assert find_among_newest(os.fstat(one.fileno()).st_ino, own_pid=os.getpid()) is None


def test_when_its_time_is_used_no_further_process_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    look_among_all(monkeypatch)
    monkeypatch.setattr(newest, "_MAX_CPU_S", 0.0)
    with socket.socket() as one, running("import sys\n" + WAIT, pass_fds=(one.fileno(),)):
        assert find_among_newest(os.fstat(one.fileno()).st_ino, own_pid=os.getpid()) is None


def test_a_process_is_found_by_its_threads_which_are_newer(monkeypatch: pytest.MonkeyPatch) -> None:
    """As wrk, and whatever runs on Go or Java, which begins with some threads."""
    look_among_all(monkeypatch)
    start = "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()"
    code = f"import sys, threading, time\nfor _ in range(3): {start}\n"
    with socket.socket() as one, running(code + WAIT, pass_fds=(one.fileno(),)) as child:
        assert len(os.listdir(f"/proc/{child.pid}/task")) == 4
        inode = os.fstat(one.fileno()).st_ino
        found = find_among_newest(inode, own_pid=os.getpid())
        assert found is not None
        assert found.pid == child.pid
        found.close()
        # Nor is the sidecar found by its own threads.
        one.close()
        assert find_among_newest(inode, own_pid=child.pid) is None


def test_a_thread_with_a_table_of_its_own_does_not_lead_to_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop would search the process's table, which may have a million entries, for each connection."""
    look_among_all(monkeypatch)
    with socket.socket() as one:
        code = (
            "import ctypes, os, sys, threading\n"
            "has_own = threading.Event()\n"
            "def hide():\n"
            "    assert ctypes.CDLL(None).unshare(0x400) == 0  # CLONE_FILES\n"
            "    has_own.set()\n"
            "    threading.Event().wait()\n"
            "threading.Thread(target=hide, daemon=True).start()\n"
            "assert has_own.wait(60)\n"
            f"os.close({one.fileno()})\n"
        )
        with running(code + WAIT, pass_fds=(one.fileno(),)):
            assert find_among_newest(os.fstat(one.fileno()).st_ino, own_pid=os.getpid()) is None


def test_a_process_that_may_not_be_looked_into_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    look_among_all(monkeypatch)
    looked, original = list[int](), find_in_table

    def find(task: int, inodes: tuple[int, ...], proc: str) -> dict[int, int]:
        looked.append(task)
        if len(looked) == 1:
            raise HiddenError(task)
        return original(task, inodes, proc)

    monkeypatch.setattr(newest, "find_in_table", find)
    with (
        socket.socket() as one,
        running("import sys\n" + WAIT, pass_fds=(one.fileno(),)) as child,
        running("import sys\n" + WAIT),
    ):
        found = find_among_newest(os.fstat(one.fileno()).st_ino, own_pid=os.getpid())
        assert found is not None
        assert found.pid == child.pid
        found.close()


def test_a_socket_that_nobody_holds_has_no_holder() -> None:
    assert find_among_newest(1, own_pid=0) is None
