"""Random descriptor tables for the compiled looks, compared with what ``os`` says of the same table."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import struct
import tempfile
from collections.abc import Iterator
from types import ModuleType

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.attest.netlink.sock_diag import NetlinkError, make_socket, parse_reply

KINDS = ("tcp", "udp", "unix", "copy", "far copy", "file", "long name", "pipe", "ring")
_bounded = settings(
    max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
_SYS_IO_URING_SETUP = 425  # The same number on every architecture, linux/unistd.h.
_FOUND = struct.Struct("=QI4x")


def open_one(kind: str, opened: list[int], folder: str) -> int:
    """Open a descriptor of some kind."""
    families = {"tcp": (socket.AF_INET, socket.SOCK_STREAM), "udp": (socket.AF_INET6, socket.SOCK_DGRAM)}
    match kind:
        case "copy" | "far copy" if opened:
            return os.dup(opened[-1]) if kind == "copy" else os.dup2(opened[0], 900 + len(opened))
        case "file":
            return os.open(folder, os.O_RDONLY)
        case "long name":  # Its link is longer than what is read of it, and looks like a socket's in the middle.
            return os.open(f"{folder}/socket:[12345]{'x' * 100}", os.O_CREAT | os.O_RDWR, 0o600)
        case "pipe":
            read, write = os.pipe()
            os.close(write)
            return read
        case "ring":
            ring = int(ctypes.CDLL(None).syscall(_SYS_IO_URING_SETUP, 4, ctypes.create_string_buffer(512)))
            return ring if ring >= 0 else os.open("/dev/null", os.O_RDONLY)
        case _:
            family, sort = families.get(kind, (socket.AF_UNIX, socket.SOCK_STREAM))
            return socket.socket(family, sort).detach()


@contextlib.contextmanager
def table(kinds: list[str]) -> Iterator[int]:
    """Open such descriptors; yield that of this process's table."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        opened: list[int] = []
        for kind in kinds:
            opened.append(open_one(kind, opened, folder))
        for descriptor in set(opened):
            stack.callback(os.close, descriptor)
        directory = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY)
        stack.callback(os.close, directory)
        yield directory


def read_links(directory: int) -> list[tuple[int, str]]:
    """Read the table as Python does, without the directory's own short-lived descriptor."""
    links = []
    for name in os.listdir(directory):
        with contextlib.suppress(FileNotFoundError):
            links.append((int(name), os.readlink(name, dir_fd=directory)))
    return links


def check_scan(module: ModuleType, kinds: list[str], limit: int) -> None:
    """The compiled scan says what the links say, up to its limit."""
    with table(kinds) as directory:
        links = read_links(directory)
        code, looked, sockets, rings = module.scan(directory, limit)
    seen = links[:limit]
    assert (code, looked) == (0, len(seen))
    wanted = [(int(link[8:-1]), number) for number, link in seen if link.startswith("socket:[")]
    assert list(_FOUND.iter_unpack(sockets)) == wanted
    assert [each for (each,) in struct.iter_unpack("=I", rings)] == [
        number for number, link in seen if link == "anon_inode:[io_uring]"
    ]


def check_find(module: ModuleType, kinds: list[str], left_out: int, limit: int) -> None:
    """Each wanted socket is found at its newest descriptor, and nothing else."""
    with table(kinds) as directory:
        links = read_links(directory)
        newest = {int(link[8:-1]): number for number, link in links if link.startswith("socket:[")}
        wanted = {*sorted(newest)[left_out:], 1, (1 << 63) - 1}
        packed = struct.pack(f"={len(wanted)}Q", *sorted(wanted))
        code, looked, sockets = module.find(directory, packed, limit)
    assert code == 0
    found = dict(_FOUND.iter_unpack(sockets))
    if len(links) > limit:
        assert looked > limit
        assert not found
    else:
        assert found == {inode: number for inode, number in newest.items() if inode in wanted}


def check_look(module: ModuleType, hints: list[int], is_there: bool) -> None:
    """The socket is found at one of the hints, and its process's executable is told; else nothing is."""
    with contextlib.ExitStack() as stack:

        def open_(name: str) -> int:
            descriptor = os.open(f"/proc/self/{name}", os.O_RDONLY)
            stack.callback(os.close, descriptor)
            return descriptor

        one = stack.enter_context(socket.socket())
        files = open_("fd"), open_("status"), open_("maps"), open_("")
        inode = os.fstat(one.fileno()).st_ino
        numbers = [number for number in hints if number != one.fileno()] + [one.fileno()] * is_there
        packed = struct.pack(f"={len(numbers)}I", *numbers)
        found = module.look(files[0], inode, packed, *files[1:])
        status = os.stat("/proc/self/exe")
    key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    assert found == ((numbers[-1], 0, 0, 1, key) if is_there else None)


@st.composite
def _message(draw: st.DrawFn) -> bytes:
    """A netlink message: mostly a socket with attributes, of whatever length it says it has."""
    kind = draw(st.sampled_from((20, 20, 20, 18, 2, 3, 7)))
    sequence = draw(st.sampled_from((7, 7, 7, 8)))
    if kind == 2:
        body = struct.pack("=i", draw(st.sampled_from((-2, -22, -95)))) + bytes(16)
    else:
        body = bytes((draw(st.sampled_from((2, 10, 1))), 1)) + draw(st.binary(min_size=70, max_size=70))
        for _ in range(draw(st.integers(0, 3))):
            value = draw(st.binary(max_size=4)) * draw(st.sampled_from((1, 40)))
            length = 4 + len(value) + draw(st.sampled_from((0, 0, 0, 0, -3, 9)))
            attribute = struct.pack("=HH", max(length, 0), draw(st.sampled_from((2, 2, 5, 11)))) + value
            body += attribute + bytes(-len(attribute) % 4)
    body = body[: len(body) - draw(st.sampled_from((0, 0, 0, 0, 1, 60)))]
    length = 16 + len(body) + draw(st.sampled_from((0, 0, 0, 0, 0, -20, 1)))
    message = struct.pack("=IHHII", max(length, 0), kind, 0, sequence, 0) + body
    return message + bytes(-len(message) % 4)


def check_parse(module: ModuleType, reply: bytes) -> None:
    """The first socket of a reply is the one that Python reads, and what Python refuses is refused."""
    try:
        found = module.parse(reply, 7)
        made = None if found is None else make_socket(*found)
    except (OSError, NetlinkError) as error:
        try:
            parse_reply(reply, sequence=7)
        except NetlinkError as refused:
            if isinstance(error, OSError) and error.errno != errno.EBADMSG:
                assert refused.errno == error.errno
            return
        raise AssertionError("Python takes what is refused here") from error
    # What comes behind the first socket isn't read here.
    with contextlib.suppress(NetlinkError):
        sockets = parse_reply(reply, sequence=7).sockets
        assert made == (sockets[0] if sockets else None)


def run_looks(module: ModuleType) -> None:
    """Drive the looks with some hundred random cases each; the same ones at each run."""
    kinds = st.lists(st.sampled_from(KINDS), max_size=24)
    limits = st.one_of(st.just(1 << 20), st.integers(0, 40))

    @_bounded
    @given(kinds, limits)
    def scan(kinds: list[str], limit: int) -> None:
        check_scan(module, kinds, limit)

    @_bounded
    @given(kinds, st.integers(0, 3), limits)
    def find(kinds: list[str], left_out: int, limit: int) -> None:
        check_find(module, kinds, left_out, limit)

    @_bounded
    @given(st.lists(st.one_of(st.integers(0, 40), st.just((1 << 32) - 1)), max_size=8), st.booleans())
    def look(hints: list[int], is_there: bool) -> None:
        check_look(module, hints, is_there)

    @_bounded
    @given(st.lists(_message(), max_size=4), st.integers(0, 12))
    def parse(messages: list[bytes], cut: int) -> None:
        reply = b"".join(messages)
        check_parse(module, reply[: len(reply) - cut])

    scan()
    find()
    look()
    parse()
