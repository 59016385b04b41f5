"""What a program of the tests executes: reads commands from standard input, a JSON array a line, and answers each.

Only the standard library, and nothing of the project: it is run by copies of the Python executable under names that no
interpreter has, so that each copy is a program of its own. Sockets are kept under names.
"""

from __future__ import annotations

import array
import ctypes
import errno
import hashlib
import json
import os
import queue
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

_DEADLINE_S = 240.0  # Bounds a failure alone; who told it what to do waits longer.
# write(2) and recvfrom(2), as /proc numbers them on x86-64 and arm64.
_BLOCKING_CALLS = frozenset({"1", "45", "64", "207"})
_sockets: dict[str, socket.socket] = {}
_let_go: dict[str, queue.SimpleQueue[str]] = {}
_reset: set[str] = set()  # Connections whose reset was told to ``send``: the kernel tells it once.
_children: list[Any] = []
_bulk: list[socket.socket] = []


def connect(
    name: str,
    host: str,
    port: int,
    *,
    source_port: int = 0,
    deadline_s: float = _DEADLINE_S,
    is_inheritable: bool = False,
) -> str:
    """Connect; the answer is ``connected`` or the error's name. An inheritable socket isn't close-on-exec."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    connection = socket.socket(family, socket.SOCK_STREAM)
    connection.settimeout(deadline_s)
    connection.set_inheritable(is_inheritable)
    try:
        if source_port:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            connection.bind(("", source_port))
        connection.connect((host, port))
    except ConnectionResetError:
        # It was accepted: who refuses it can be faster than this program, which is then told of the reset here.
        _reset.add(name)
    except OSError as error:
        connection.close()
        return _name(error)
    else:
        _reset.discard(name)
    _sockets[name] = connection
    return "connected"


def bind_to_device(name: str) -> str:
    """Bind a connected socket to the pod's network device: its four-tuple is free for another socket."""
    device = next(name for _, name in socket.if_nameindex() if name != "lo")
    _sockets[name].setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    return "bound"


def send(name: str, text: str) -> str:
    """Send text; the answer is ``sent`` or the error's name.

    Without SIGPIPE, where ``connect`` was told of the reset: a traced process stops at each signal, an ignored one as
    well, until its tracer lets it go on.
    """
    try:
        _sockets[name].sendall(text.encode(), socket.MSG_NOSIGNAL)
    except OSError as error:
        if isinstance(error, ConnectionResetError):
            _reset.add(name)
        return _name(error)
    return "sent"


def receive(name: str, count: int) -> str:
    """Receive exactly ``count`` bytes; ``end`` or the error's name follows what came before it."""
    got = b""
    try:
        while len(got) < count:
            more = _sockets[name].recv(count - len(got))
            if not more:
                return got.decode() + _end(name)
            got += more
    except OSError as error:
        return got.decode() + f"<{_name(error)}>"
    return got.decode()


def receive_rest(name: str) -> str:
    """Receive until the end: the text, and how it ended: ``<end>`` or the error's name in brackets."""
    got = b""
    try:
        while more := _sockets[name].recv(65536):
            got += more
    except OSError as error:
        return got.decode() + f"<{_name(error)}>"
    return got.decode() + _end(name)


def _end(name: str) -> str:
    """Return how a connection ended that has no more to read."""
    return "<ECONNRESET>" if name in _reset else "<end>"


def finish(name: str) -> None:
    """End our direction only."""
    _sockets[name].shutdown(socket.SHUT_WR)


def close(name: str, *, by_reset: bool = False) -> None:
    """Close, by RST if told so."""
    connection = _sockets.pop(name)
    if by_reset:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def exchange(host: str, port: int, text: str) -> str:
    """Connect, send a text, half-close, and return what came and how it ended."""
    outcome = connect("exchange", host, port)
    if outcome != "connected":
        return f"<{outcome}>"
    try:
        send("exchange", text)
        try:
            finish("exchange")
        except OSError:
            pass
        return receive_rest("exchange")
    finally:
        close("exchange")


def exchange_bulk(host: str, port: int, size: int) -> list[str]:
    """Send ``size`` bytes while receiving; return the digests of what was sent and of what came back."""
    connect("bulk", host, port)
    connection = _sockets["bulk"]
    block = hashlib.sha256(b"block").digest() * 2048
    sent, got = hashlib.sha256(), hashlib.sha256()

    def write() -> None:
        left = size
        while left:
            part = block[: min(left, len(block))]
            connection.sendall(part)
            sent.update(part)
            left -= len(part)
        connection.shutdown(socket.SHUT_WR)

    writer = threading.Thread(target=write)
    writer.start()
    received = 0
    while more := connection.recv(1 << 18):
        got.update(more)
        received += len(more)
    writer.join()
    close("bulk")
    return [sent.hexdigest(), got.hexdigest(), str(received)]


def connect_many(host: str, port: int, count: int) -> int:
    """Open that many connections, each used once; return how many work."""
    for _ in range(count):
        connection = socket.create_connection((host, port), _DEADLINE_S)
        _bulk.append(connection)
        connection.sendall(b"x")
        if connection.recv(1) != b"x":
            break
    return len(_bulk)


def count_alive() -> int:
    """Return over how many of the many connections a byte still goes there and back."""
    alive = 0
    for connection in _bulk:
        try:
            connection.sendall(b"y")
            alive += connection.recv(1) == b"y"
        except OSError:
            pass
    return alive


def close_many() -> None:
    """Close the many connections."""
    while _bulk:
        _bulk.pop().close()


def listen(host: str, port: int, kind: str, *, shared: bool = False) -> str:
    """Serve a port in a thread: ``echo``, ``greet`` (speaks first), ``answer`` (after the peer's end), ``reset``
    (answers, then resets), ``http`` (answers one request), ``hold`` (never says anything)."""  # fmt: skip
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
        listener.listen(1024)
    except OSError as error:
        return _name(error)
    _sockets[f"listener {port}"] = listener
    threading.Thread(target=_accept, args=(listener, kind), daemon=True).start()
    return "listening"


def listen_by_worker(host: str, port: int, library: str) -> str:
    """Listen, and have a forked process accept, which has loaded a library and closes with its answer, as nginx does.

    It ends with this process.
    """
    listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    ready, told = os.pipe()
    if not os.fork():
        try:
            ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
            ctypes.CDLL(library)
            os.write(told, b"1")
            while True:
                connection, _ = listener.accept()
                text = connection.recv(1024)
                connection.sendall(b"got " + text)
                connection.close()
        finally:
            os._exit(1)
    os.close(told)
    has_loaded = os.read(ready, 1)
    os.close(ready)
    return "listening" if has_loaded else "not loaded"


def listen_now_and_then(host: str, port: int) -> str:
    """Share a port for moments only, in a thread, and answer ``stolen`` to whoever connects in one of them."""

    def steal() -> None:
        while True:
            with socket.socket() as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                listener.bind((host, port))
                listener.listen()
                listener.settimeout(0.002)
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    connection = None
            if connection is not None:
                threading.Thread(target=_answer_stolen, args=(connection,), daemon=True).start()
            time.sleep(0.002)

    threading.Thread(target=steal, daemon=True).start()
    return "listening"


def _answer_stolen(connection: socket.socket) -> None:
    with connection:
        try:
            if connection.recv(65536):
                connection.sendall(b"stolen")
        except OSError:
            pass


def ignore() -> str:
    """Do nothing; says that the program is there."""
    return "ready"


def spawn(program: str, name: str) -> int:
    """Start another program that inherits a connection and only waits; return its process ID."""
    descriptor = _sockets[name].fileno()
    child = subprocess.Popen(
        [program, "-S", "-c", "import time; print(flush=True); time.sleep(600)"],
        pass_fds=[descriptor],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    _children.append(child)
    # Popen returns while execve(2) still goes on: a look in that moment rightly finds a program that changes.
    assert child.stdout is not None
    assert child.stdout.readline() == b"\n"
    return child.pid


def open_unconnected(name: str) -> None:
    """Open a socket and don't connect it."""
    _sockets[name] = socket.socket()


def connect_and_let_go(name: str, host: str, port: int) -> None:
    """Connect, and close the only descriptor while threads are blocked in send(2) and recv(2) with it.

    The kernel keeps the socket for as long as they are, and no descriptor table shows it. ``let_go_outcome`` waits for
    what becomes of it.
    """
    connection, outcomes = _sockets.pop(name), _let_go.setdefault(name, queue.SimpleQueue[str]())
    connection.settimeout(None)
    connection.connect((host, port))
    descriptor, size = connection.detach(), 8 << 20

    def receive_blocked() -> None:
        held, got = socket.socket(fileno=descriptor), 0
        try:
            got = len(held.recv(size, socket.MSG_WAITALL))
        except OSError as error:
            outcomes.put(_name(error))
        else:
            outcomes.put(str(got))
        held.detach()

    def send_blocked() -> None:
        with suppress(OSError):
            os.write(descriptor, bytes(size))

    threads = [threading.Thread(target=each, daemon=True) for each in (receive_blocked, send_blocked)]
    for each in threads:
        each.start()
    for each in threads:
        _await_blocked(each)
    os.close(descriptor)


def let_go_outcome(name: str) -> str:
    """How many bytes were received by a connection that ``connect_and_let_go`` made, or the error's name."""
    return _let_go[name].get(timeout=_DEADLINE_S)


def _await_blocked(thread: threading.Thread) -> None:
    """Wait until a thread is in a system call with a socket, or has ended."""
    deadline = time.monotonic() + _DEADLINE_S
    while thread.is_alive() and time.monotonic() < deadline:
        with suppress(OSError):
            call = Path(f"/proc/self/task/{thread.native_id}/syscall").read_text().split(" ", 1)[0]
            if call in _BLOCKING_CALLS:
                return
        time.sleep(0.001)


def pass_on(name: str, path: str) -> None:
    """Send a connection's descriptor to whoever listens at a Unix socket, and keep it."""
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    channel.connect(path)
    _send_descriptor(channel, _sockets[name].fileno())
    _sockets["channel"] = channel


def take_from(path: str) -> None:
    """Listen at a Unix socket, take one descriptor from it in a thread and hold it."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen()

    def take() -> None:
        channel, _ = listener.accept()
        _, ancillary, _, _ = channel.recvmsg(1, socket.CMSG_SPACE(4))
        held = array.array("i")
        held.frombytes(ancillary[0][2][:4])
        _children.append(held)

    threading.Thread(target=take, daemon=True).start()


def put_in_flight(name: str) -> None:
    """Send a connection's descriptor into a Unix socket that nobody reads."""
    left, right = socket.socketpair()
    _send_descriptor(left, _sockets[name].fileno())
    _sockets["left"], _sockets["right"] = left, right


def trace(pid: int) -> int:
    """Attach to a process as a debugger does (ptrace(2), PTRACE_SEIZE), without stopping it."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    return 0 if libc.ptrace(0x4206, pid, None, None) == 0 else ctypes.get_errno()


def hoard(threads: int, descriptors: int) -> str:
    """Hold many descriptors in many tables: each thread has a copy of its own (unshare(2), CLONE_FILES)."""
    for _ in range(descriptors):
        _children.append(os.open("/dev/null", os.O_RDONLY))
    libc = ctypes.CDLL(None, use_errno=True)
    there = threading.Barrier(threads + 1)

    def hold() -> None:
        libc.unshare(0x400)
        there.wait()
        threading.Event().wait()

    for _ in range(threads):
        threading.Thread(target=hold, daemon=True).start()
    there.wait()
    return "hoarding"


def become(uid: int) -> None:
    """Become another user."""
    os.setgroups([])
    os.setresuid(uid, uid, uid)


def load(path: str) -> str:
    """Load a library."""
    ctypes.CDLL(path)
    return "loaded"


def execute(program: str) -> None:
    """Become another program, which goes on reading commands and keeps the connections' descriptors."""
    kept = {name: each.fileno() for name, each in _sockets.items()}
    for each in _sockets.values():
        os.set_inheritable(each.fileno(), True)
    os.environ["ACTOR_SOCKETS"] = json.dumps(kept)
    os.execv(program, [program, "-S", __file__])


def run_briefly(host: str, port: int, text: str) -> str:
    """Connect, send and close at once, without waiting for anything."""
    outcome = connect("brief", host, port)
    if outcome == "connected":
        send("brief", text)
        close("brief")
    return outcome


def _send_descriptor(channel: socket.socket, descriptor: int) -> None:
    channel.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))])


def _accept(listener: socket.socket, kind: str) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError as error:
            if error.errno == errno.EMFILE:
                time.sleep(0.05)
                continue
            return
        threading.Thread(target=_serve, args=(connection, kind), daemon=True).start()


def _serve(connection: socket.socket, kind: str) -> None:
    with connection:
        try:
            if kind == "echo":
                while data := connection.recv(1 << 18):
                    connection.sendall(data)
            elif kind == "greet":
                connection.sendall(b"220 welcome\r\n")
                while connection.recv(65536):
                    pass
            elif kind == "answer":
                got = b""
                while data := connection.recv(65536):
                    got += data
                connection.sendall(b"got " + got)
            elif kind == "http":
                got = b""
                while b"\r\n\r\n" not in got and (data := connection.recv(65536)):
                    got += data
                connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nbread")
            elif kind == "reset":
                got = connection.recv(65536)
                connection.sendall(b"got " + got)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                time.sleep(0.2)
            else:
                time.sleep(600)
        except OSError:
            pass


def _name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, type(error).__name__)


def _main() -> None:
    threading.stack_size(256 * 1024)
    for name, descriptor in json.loads(os.environ.pop("ACTOR_SOCKETS", "{}")).items():
        _sockets[name] = socket.socket(fileno=descriptor)
        _sockets[name].settimeout(_DEADLINE_S)  # The descriptor is non-blocking, which a new object doesn't know.
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        verb, arguments, options = json.loads(line)
        try:
            answer = globals()[verb](*arguments, **options)
        except Exception as error:
            print(json.dumps({"failure": f"{type(error).__name__}: {error}"}), flush=True)
        else:
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _main()
