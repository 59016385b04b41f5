"""Random and malformed bytes for the compiled loop, compared with what the frames' definition says.

Run by itself (``python -m tests.sidecar.native.malformed FOLDER``), it drives the loop that was built into FOLDER: so
it is run under the sanitizers.
"""

from __future__ import annotations

import importlib.util
import socket
import sys
from pathlib import Path
from types import ModuleType

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.native.build import NAME
from sidecar.tls.key_limit import RECORD_OVERHEAD_BYTES
from sidecar.tunnel.frames import HEADER, HEADER_BYTES, MAX_FRAME_BYTES, MAX_PAYLOAD_BYTES, FrameType
from tests.sidecar.native.looks import run_looks
from tests.sidecar.native.scripted_tls import SYSCALL, TLS, WANT_READ, WANT_WRITE, ScriptedTls

EPOCH = 7
_DATA = int(FrameType.DATA)
_ROOM = 1 << 40
_bounded = settings(
    max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
_sizes = st.one_of(
    st.integers(0, 40), st.integers(MAX_PAYLOAD_BYTES - 3, MAX_PAYLOAD_BYTES + 3), st.integers(0, 0xFFFF)
)


def load_from(folder: Path) -> ModuleType:
    """Load the extension that was built into ``folder``."""
    spec = importlib.util.spec_from_file_location("sidecar.native._loop", folder / NAME)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@st.composite
def _frame(draw: st.DrawFn) -> bytes:
    """A frame: mostly plain DATA, else of any type, epoch and length, whether or not its payload is."""
    size = draw(_sizes)
    kind = draw(st.sampled_from((_DATA, _DATA, _DATA, _DATA, _DATA, 5, 0, 255)))
    epoch = draw(st.sampled_from((EPOCH, EPOCH, EPOCH, EPOCH, EPOCH + 1)))
    if kind == _DATA and not draw(st.booleans()):
        size = max(1, min(size, MAX_PAYLOAD_BYTES))
    return HEADER.pack(kind, epoch, size) + bytes([draw(st.integers(0, 255))]) * size


@st.composite
def _records(draw: st.DrawFn) -> list[bytes]:
    """A stream of frames, in full records or cut anywhere."""
    size = draw(st.sampled_from((MAX_PAYLOAD_BYTES, 12_000)))
    full = [HEADER.pack(_DATA, EPOCH, size) + bytes(size)] * draw(st.integers(0, 20))
    stream = b"".join([*full, *draw(st.lists(_frame(), max_size=12))]) + draw(st.binary(max_size=9))
    if draw(st.booleans()):
        return [stream[at : at + MAX_FRAME_BYTES] for at in range(0, len(stream), MAX_FRAME_BYTES)]
    records: list[bytes] = []
    while stream:
        size = draw(st.sampled_from((MAX_FRAME_BYTES, MAX_FRAME_BYTES, 1, 3, 5, 512, 9_000)))
        records.append(stream[:size])
        stream = stream[size:]
    return records


def cut(stream: bytes) -> tuple[bytes, bytes]:
    """The payloads of the whole plain frames that the stream begins with, and what comes behind them."""
    payloads = bytearray()
    while len(stream) >= HEADER_BYTES:
        kind, epoch, size = HEADER.unpack_from(stream)
        if kind != _DATA or epoch != EPOCH or not 0 < size <= MAX_PAYLOAD_BYTES or len(stream) < HEADER_BYTES + size:
            break
        payloads += stream[HEADER_BYTES : HEADER_BYTES + size]
        stream = stream[HEADER_BYTES + size :]
    return bytes(payloads), stream


def socket_pair(buffer_bytes: int) -> tuple[socket.socket, socket.socket]:
    """Two connected sockets that wait for nothing, the first one's sends bounded by about this."""
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
    return near, far


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two sockets that are connected by TCP, neither of which waits for anything."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname(), timeout=60)
        far, _ = listener.accept()
    for each in (near, far):
        each.setblocking(False)
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return near, far


def is_corked(connection: socket.socket) -> bool:
    """Whether the kernel waits for more before it sends a segment that isn't full."""
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_CORK) != 0


def drain(connection: socket.socket) -> bytes:
    """Everything that is there."""
    came = bytearray()
    try:
        while data := connection.recv(1 << 20):
            came += data
    except BlockingIOError:
        pass
    return bytes(came)


def check_receive(module: ModuleType, records: list[bytes], *, buffer_bytes: int, end: int, is_gone: bool) -> None:
    """What is read is at the sink, in the rest, or left: each byte once, in order."""
    tls = ScriptedTls(records, end=end)
    sink, far = socket_pair(buffer_bytes)
    with sink, far:
        if is_gone:
            far.close()
        written, used, rest, left, broken, result, _ = module.Loop(*tls.addresses).receive(
            TLS, sink.fileno(), EPOCH, _ROOM
        )
        came = b"" if is_gone else drain(far)
    read, tail = bytes(tls.read), left or b""
    assert read.endswith(tail)
    payloads, behind = cut(read[: len(read) - len(tail)])
    assert not behind
    assert written == len(came)
    assert used == len(read) + tls.reads * RECORD_OVERHEAD_BYTES
    if broken:
        assert is_gone
        assert rest is None
    else:
        assert came + (rest or b"") == payloads
        if rest is None and written < module.BUDGET_BYTES:
            assert cut(tail) == (b"", tail)  # Nothing that could have been passed on is left.
    assert (result == 1) or (end != WANT_READ and not tls._records)


def check_send(
    module: ModuleType,
    data: bytes,
    *,
    takes: list[int],
    room: int,
    stop_after: int | None,
    stop: int,
    epoch: int,
    tunnel: socket.socket,
) -> None:
    """What was read is in TLS or in the rest: each byte once, in order, in whole frames. No cork stays."""
    tls = ScriptedTls(takes=takes, stop_after=stop_after, stop=stop)
    far, source = socket_pair(4 << 20)
    with source, far:
        sent = far.send(data)
        far.shutdown(socket.SHUT_WR)
        status, taken, used, rest, _, _ = module.Loop(*tls.addresses).send(
            TLS, source.fileno(), epoch, room, tunnel.fileno()
        )
        unread = drain(source)
    assert not is_corked(tunnel)
    assert used == len(tls.written) + tls.writes * RECORD_OVERHEAD_BYTES
    stream = bytes(tls.written) + b"".join(rest or ())
    if status == module.FAILED:
        assert stop == SYSCALL
        assert rest is None
        assert taken <= len(stream)
        return
    assert taken + len(unread) == sent
    if epoch >= 0:
        frames = bytearray()
        while stream:
            kind, its_epoch, size = HEADER.unpack_from(stream)
            assert (kind, its_epoch) == (_DATA, epoch)
            assert 0 < size <= MAX_PAYLOAD_BYTES
            frames += stream[HEADER_BYTES : HEADER_BYTES + size]
            stream = stream[HEADER_BYTES + size :]
        stream = bytes(frames)
    assert stream == data[:taken]
    if used > room:
        assert status in (module.LIMIT, module.BLOCKED)
    if status == module.ENDED:
        assert not unread


def check_forward(module: ModuleType, data: bytes, *, buffer_bytes: int) -> None:
    """What was read is at the sink or in the rest."""
    (back, source), (sink, far) = socket_pair(4 << 20), socket_pair(buffer_bytes)
    with back, source, sink, far:
        sent = back.send(data) if data else 0
        status, written, rest, broken, _ = module.Loop(1, 1, 1, 1).forward(source.fileno(), sink.fileno())
        came, unread = drain(far), drain(source)
    assert (status, broken) == (module.WAITING, 0)
    assert written == len(came)
    assert came + (rest or b"") + unread == data[:sent]


def run_all(module: ModuleType) -> None:
    """Drive all three calls with a few hundred random cases each; the same ones at each run."""

    @_bounded
    @given(_records(), st.sampled_from((1, 40_000, 4 << 20)), st.sampled_from((WANT_READ, SYSCALL)), st.booleans())
    def receive(records: list[bytes], buffer_bytes: int, end: int, is_gone: bool) -> None:
        check_receive(module, records, buffer_bytes=buffer_bytes, end=end, is_gone=is_gone)

    @_bounded
    @given(
        st.integers(0, 600_000),
        st.lists(st.sampled_from((1, 2, 5, 512, 4096, 16_384)), max_size=60),
        st.one_of(st.just(_ROOM), st.integers(0, 200_000)),
        st.one_of(st.none(), st.integers(0, 30)),
        st.sampled_from((WANT_WRITE, SYSCALL)),
        st.sampled_from((-1, 0, 255)),
    )
    def send(size: int, takes: list[int], room: int, stop_after: int | None, stop: int, epoch: int) -> None:
        data = (b"0123456789abcdefghijklmnopqrstuvwxyz" * (size // 36 + 1))[:size]
        check_send(module, data, takes=takes, room=room, stop_after=stop_after, stop=stop, epoch=epoch, tunnel=tunnel)

    @_bounded
    @given(st.integers(0, 600_000), st.sampled_from((1, 40_000, 4 << 20)))
    def forward(size: int, buffer_bytes: int) -> None:
        check_forward(module, (b"0123456789abcdefghi" * (size // 19 + 1))[:size], buffer_bytes=buffer_bytes)

    receive()
    tunnel, peer = tcp_pair()
    with tunnel, peer:
        send()
    forward()


if __name__ == "__main__":
    loaded = load_from(Path(sys.argv[1]))
    run_all(loaded)
    run_looks(loaded)
