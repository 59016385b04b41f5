"""The compiled looks: they say what Python's say, and refuse what isn't theirs."""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest

from sidecar.attest.netlink.sock_diag import build_lookup, make_socket, parse_reply
from sidecar.native.engine import Wanted, choose, current_look, load
from tests.sidecar.native.looks import run_looks


@pytest.fixture(scope="module")
def module() -> ModuleType:
    if load() is None:
        pytest.skip("the native engine isn't built: it takes a C compiler and Python's headers")
    from sidecar.native import _loop

    return _loop


def test_random_tables_are_seen_as_python_sees_them(module: ModuleType) -> None:
    run_looks(module)


def test_python_looks_where_it_is_asked_for(module: ModuleType) -> None:
    before = choose(Wanted.PYTHON)
    try:
        assert current_look() is None
    finally:
        choose(before)
    assert current_look() is not None


def test_a_process_that_has_ended_is_an_error(module: ModuleType) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    directory = os.open(f"/proc/{child.pid}/fd", os.O_RDONLY)
    try:
        child.kill()
        child.communicate()
        with pytest.raises(FileNotFoundError):
            os.listdir(directory)
        assert module.scan(directory, 10) == (errno.ENOENT, 0, b"", b"")
        assert module.find(directory, struct.pack("=Q", 1), 10) == (errno.ENOENT, 0, b"")
    finally:
        os.close(directory)


def test_what_is_no_process_is_an_error_or_not_there(module: ModuleType) -> None:
    null, status = os.open("/dev/null", os.O_RDONLY), os.open("/proc/self/status", os.O_RDONLY)
    table, root = os.open("/proc/self/fd", os.O_RDONLY), os.open("/", os.O_RDONLY)
    try:
        assert module.scan(null, 10)[0] == errno.ENOTDIR
        assert module.scan(1 << 30, 10)[0] == errno.EBADF
        assert module.scan(root, 10) == (0, 0, b"", b""), "no name there is a number"
        with socket.socket() as one:
            inode, hints = os.fstat(one.fileno()).st_ino, struct.pack("=I", one.fileno())
            assert module.look(table, inode, hints, null, null, root)[1] == errno.EPROTO
            assert module.look(table, inode, hints, status, null, root)[1:4] == (0, 0, 0), "a memory that isn't in use"
            assert module.look(table, inode, hints, status, status, root)[1] == errno.ENOENT, "no executable"
            assert module.look(table, inode + 1, hints, status, status, root) is None
    finally:
        for each in (null, status, table, root):
            os.close(each)


def test_a_tracer_is_told(module: ModuleType) -> None:
    code = "import os,socket,sys\nc=socket.socket();print(c.fileno(),os.fstat(c.fileno()).st_ino,flush=True)\ninput()\n"
    tracer = (
        "import ctypes,sys\nassert ctypes.CDLL(None).ptrace(0x4206,int(sys.argv[1]),None,None)==0\n"
        "print('traces',flush=True)\ninput()\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    child = subprocess.Popen([sys.executable, "-c", code], **pipes)  # type: ignore[call-overload]  # All are pipes.
    assert child.stdout is not None
    number, inode = map(int, child.stdout.readline().split())
    opened = [os.open(f"/proc/{child.pid}/{name}", os.O_RDONLY) for name in ("fd", "status", "maps", "")]
    try:
        hints = struct.pack("=I", number)
        assert module.look(opened[0], inode, hints, *opened[1:])[1:4] == (0, 0, 1)
        other = subprocess.Popen(  # type: ignore[call-overload]
            [sys.executable, "-c", tracer, str(child.pid)], **pipes
        )
        assert other.stdout is not None
        if other.stdout.readline() != "traces\n":
            other.communicate()
            pytest.skip("nothing may be traced here")
        assert module.look(opened[0], inode, hints, *opened[1:])[1:4] == (0, other.pid, 0)
        assert module.look(opened[0], inode, hints, None, *opened[2:])[1:4] == (0, 0, 1), "nobody has asked"
        other.send_signal(signal.SIGKILL)
        other.communicate()
    finally:
        child.kill()
        child.communicate()
        for each in opened:
            os.close(each)


def test_a_socket_is_looked_up_as_python_does_it(module: ModuleType) -> None:
    with (
        socket.create_server(("::1", 0), family=socket.AF_INET6) as server,
        socket.create_connection(server.getsockname()[:2]) as client,
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as netlink,
    ):
        server.accept()[0].close()
        ends = client.getsockname()[:2], server.getsockname()[:2]
        request = build_lookup(*ends, sequence=7)
        netlink.sendto(build_lookup(*ends, sequence=6), (0, 0))  # An answer that was left over.
        found = make_socket(*module.lookup(netlink.fileno(), request, 7))
        netlink.sendto(request, (0, 0))
        (python,) = parse_reply(netlink.recv(65_536), sequence=7).sockets
        assert found == python
        assert (found.local, found.peer, found.inode) == (*ends, os.fstat(client.fileno()).st_ino)
        with pytest.raises(FileNotFoundError):
            module.lookup(netlink.fileno(), build_lookup(("192.0.2.1", 9), ("192.0.2.2", 9), sequence=8), 8)
        with pytest.raises(BlockingIOError):
            module.lookup(netlink.fileno(), struct.pack("=IHHII", 16, 0x10, 0, 7, 0), 7)  # Not even a request.
    with pytest.raises(OSError, match="Bad file descriptor"):
        module.lookup(1 << 30, request, 7)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("scan", (0,)),
        ("scan", (-1, 10)),
        ("scan", (0, -1)),
        ("scan", (0, 1 << 40)),
        ("scan", ("0", 10)),
        ("scan", (1 << 70, 10)),
        ("find", (0, b"1234567", 10)),
        ("find", (0, "12345678", 10)),
        ("find", (0, b"", 1 << 40)),
        ("look", (0, 1, b"123", 0, 0, 0)),
        ("look", (0, -1, b"", 0, 0, 0)),
        ("look", (0, 1, b"", 0, 0)),
        ("lookup", (0, "text", 1)),
        ("lookup", (0, b"", 1 << 32)),
        ("lookup", (0,)),
        ("parse", (b"", -1)),
        ("parse", ("", 1)),
    ],
)
def test_arguments_of_another_kind_or_range_are_refused(
    module: ModuleType, name: str, arguments: tuple[Any, ...]
) -> None:
    with pytest.raises((TypeError, ValueError, OverflowError)):
        getattr(module, name)(*arguments)
