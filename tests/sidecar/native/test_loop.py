"""The compiled loop by itself: what each call moves, and where it returns. ``malformed.py`` has the random cases."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from sidecar.native.engine import load
from sidecar.tls.key_limit import RECORD_OVERHEAD_BYTES
from sidecar.tunnel.frames import HEADER, HEADER_BYTES, MAX_FRAME_BYTES, MAX_PAYLOAD_BYTES, FrameType
from tests.sidecar.native.malformed import EPOCH, drain, is_corked, socket_pair, tcp_pair
from tests.sidecar.native.scripted_tls import SYSCALL, TLS, ScriptedTls

if load() is None:
    pytest.skip("the native engine isn't built: it takes a C compiler and Python's headers", allow_module_level=True)

from sidecar.native import _loop

_ROOM = 1 << 40
_DATA = int(FrameType.DATA)
# Of the application's, in one record of a batch.
_FILLED = _loop.FILLED_BYTES - HEADER_BYTES
# What one segment of the loopback device holds: its MTU less the headers of IPv6 and TCP, with timestamps.
_SEGMENT_BYTES = 65536 - 40 - 32
# What TLS adds to a record (RFC 8446, section 5.2): header, content type, AES-GCM's tag.
_SEALED_BYTES = 5 + 1 + 16


def frame(payload: bytes, *, epoch: int = EPOCH, kind: int = _DATA) -> bytes:
    return HEADER.pack(kind, epoch, len(payload)) + payload


@pytest.fixture(name="pair")
def connected() -> Iterator[tuple[socket.socket, socket.socket]]:
    """What the loop has, and the other end."""
    near, far = socket_pair(4 << 20)
    with near, far:
        yield near, far


Pair = tuple[socket.socket, socket.socket]


def loop_of(tls: ScriptedTls) -> _loop.Loop:
    return _loop.Loop(*tls.addresses)


def test_the_constants_are_those_of_the_frames_and_of_the_key_limit() -> None:
    assert (_loop.HEADER_BYTES, _loop.RECORD_BYTES, _loop.FRAME_DATA) == (HEADER_BYTES, MAX_FRAME_BYTES, _DATA)
    assert _loop.OVERHEAD_BYTES == RECORD_OVERHEAD_BYTES


def test_a_batch_fits_one_segment_of_the_loopback_device() -> None:
    assert _SEGMENT_BYTES - 400 < 4 * (_loop.FILLED_BYTES + _SEALED_BYTES) <= _SEGMENT_BYTES


# ---- socket → TLS ------------------------------------------------------------------------------------------------


def test_what_the_socket_holds_becomes_one_frame_a_record(pair: Pair) -> None:
    near, far = pair
    far.send(bytes(3 * _FILLED + 5))
    tls = ScriptedTls()
    status, taken, used, rest, result, _ = loop_of(tls).send(TLS, near.fileno(), EPOCH, _ROOM, -1)
    assert (status, taken, rest, result) == (_loop.WAITING, 3 * _FILLED + 5, None, 1)
    assert bytes(tls.written) == frame(bytes(_FILLED)) * 3 + frame(bytes(5))
    assert tls.writes == 4
    assert used == taken + 4 * (HEADER_BYTES + RECORD_OVERHEAD_BYTES)


def test_one_call_moves_one_budget_and_no_more_than_a_read_beyond(pair: Pair) -> None:
    near, far = pair
    far.setblocking(False)
    far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
    sent = far.send(bytes(400_000))
    if sent <= _loop.BUDGET_BYTES + 4 * _FILLED:
        pytest.fail(f"the kernel took only {sent} bytes")
    _, taken, *_ = loop_of(ScriptedTls()).send(TLS, near.fileno(), EPOCH, _ROOM, -1)
    assert _loop.BUDGET_BYTES <= taken < _loop.BUDGET_BYTES + 4 * _FILLED


def test_an_end_and_an_empty_socket_are_told_apart(pair: Pair) -> None:
    near, far = pair
    loop = loop_of(ScriptedTls())
    assert loop.send(TLS, near.fileno(), EPOCH, _ROOM, -1)[0] == _loop.WAITING
    far.close()
    assert loop.send(TLS, near.fileno(), EPOCH, _ROOM, -1)[0] == _loop.ENDED


def test_a_broken_source_is_its_error() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        status, *_, code = loop_of(ScriptedTls()).send(TLS, listener.fileno(), EPOCH, _ROOM, -1)
    assert (status, code) == (_loop.BROKEN, errno.ENOTCONN)


def test_shorter_records_than_asked_for_are_gone_on_with(pair: Pair) -> None:
    """RFC 6066, section 4: the peer may have negotiated less than 16 KiB."""
    near, far = pair
    far.send(bytes(2000))
    tls = ScriptedTls(takes=[512] * 3)
    _, taken, used, rest, _, _ = loop_of(tls).send(TLS, near.fileno(), EPOCH, _ROOM, -1)
    assert (taken, rest, tls.writes) == (2000, None, 4)
    assert bytes(tls.written) == frame(bytes(2000))
    assert used == 2000 + HEADER_BYTES + 4 * RECORD_OVERHEAD_BYTES


def test_what_tls_doesnt_take_comes_back_as_the_bytes_that_it_has_to_be_given_again(pair: Pair) -> None:
    near, far = pair
    far.send(bytes(2 * _FILLED))
    tls = ScriptedTls(takes=[512], stop_after=1)
    status, taken, _, rest, _, _ = loop_of(tls).send(TLS, near.fileno(), EPOCH, _ROOM, -1)
    assert (status, taken) == (_loop.BLOCKED, 2 * _FILLED)
    whole = frame(bytes(_FILLED))
    assert rest == [whole[512:], whole]


def test_the_record_that_passes_the_keys_room_is_the_last(pair: Pair) -> None:
    near, far = pair
    far.send(bytes(3 * _FILLED))
    tls = ScriptedTls()
    status, taken, used, rest, _, _ = loop_of(tls).send(TLS, near.fileno(), EPOCH, _loop.FILLED_BYTES, -1)
    assert (status, taken, tls.writes) == (_loop.LIMIT, 3 * _FILLED, 1)
    assert used == _loop.FILLED_BYTES + RECORD_OVERHEAD_BYTES
    assert rest == [frame(bytes(_FILLED))] * 2


def test_what_a_broken_tls_connection_didnt_take_isnt_counted(pair: Pair) -> None:
    near, far = pair
    far.send(bytes(3 * _FILLED))
    status, taken, _, rest, result, _ = loop_of(ScriptedTls(stop_after=1, stop=SYSCALL)).send(
        TLS, near.fileno(), EPOCH, _ROOM, -1
    )
    assert (status, taken, rest, result) == (_loop.FAILED, _FILLED, None, -1)


class Corked(ScriptedTls):
    """Notes at each write whether the tunnel's socket waits for more.

    Arguments:
        tunnel: the socket that TLS would write to.
        arguments: as of ``ScriptedTls``.
    """

    def __init__(self, tunnel: socket.socket, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.tunnel = tunnel
        self.seen: list[bool] = []

    def _write(self, tls: int, buffer: int, size: int) -> int:
        self.seen.append(is_corked(self.tunnel))
        return super()._write(tls, buffer, size)


@pytest.fixture(name="tunnel")
def of_tcp() -> Iterator[socket.socket]:
    near, far = tcp_pair()
    with near, far:
        yield near


@pytest.mark.parametrize("size", [1, _FILLED])
def test_one_record_leaves_at_once(pair: Pair, tunnel: socket.socket, size: int) -> None:
    near, far = pair
    far.send(bytes(size))
    tls = Corked(tunnel)
    loop_of(tls).send(TLS, near.fileno(), EPOCH, _ROOM, tunnel.fileno())
    assert (tls.seen, is_corked(tunnel)) == ([False], False)


@pytest.mark.parametrize(
    ("arguments", "room", "status"),
    [
        ({}, _ROOM, _loop.ENDED),
        ({}, MAX_FRAME_BYTES, _loop.LIMIT),
        ({"stop_after": 1}, _ROOM, _loop.BLOCKED),
        ({"stop_after": 1, "stop": SYSCALL}, _ROOM, _loop.FAILED),
    ],
)
def test_several_records_leave_together_and_at_the_latest_when_the_call_ends(
    pair: Pair, tunnel: socket.socket, arguments: dict[str, int], room: int, status: int
) -> None:
    near, far = pair
    far.send(bytes(4 * _FILLED))  # A whole read, so that another one follows.
    far.close()
    tls = Corked(tunnel, **arguments)
    assert loop_of(tls).send(TLS, near.fileno(), EPOCH, room, tunnel.fileno())[0] == status
    assert tls.seen
    assert all(tls.seen)
    assert not is_corked(tunnel)


def test_a_tunnel_that_isnt_of_tcp_has_no_cork(pair: Pair) -> None:
    near, far = pair
    far.send(bytes(3 * _FILLED))
    tls = ScriptedTls()
    assert loop_of(tls).send(TLS, near.fileno(), EPOCH, _ROOM, far.fileno())[1] == 3 * _FILLED
    assert tls.writes == 3


# ---- TLS → socket ------------------------------------------------------------------------------------------------


def test_payloads_of_plain_frames_are_written_and_another_frame_comes_back(pair: Pair) -> None:
    near, far = pair
    records = [frame(bytes(MAX_PAYLOAD_BYTES)), frame(b"last") + frame(b"", kind=FrameType.END)]
    written, used, rest, left, broken, result, _ = loop_of(ScriptedTls(records)).receive(
        TLS, near.fileno(), EPOCH, _ROOM
    )
    assert drain(far) == bytes(MAX_PAYLOAD_BYTES) + b"last"
    assert (written, rest, broken, result) == (MAX_PAYLOAD_BYTES + 4, None, 0, 1)
    assert left == frame(b"", kind=FrameType.END)
    assert used == sum(map(len, records)) + 2 * RECORD_OVERHEAD_BYTES


@pytest.mark.parametrize(
    "odd", [frame(b"x", epoch=EPOCH + 1), frame(b"x", kind=99), frame(b""), HEADER.pack(_DATA, EPOCH, 0xFFFF) + b"x"]
)
def test_what_isnt_a_plain_frame_of_this_epoch_isnt_touched(pair: Pair, odd: bytes) -> None:
    near, far = pair
    written, _, rest, left, *_ = loop_of(ScriptedTls([frame(b"good") + odd])).receive(TLS, near.fileno(), EPOCH, _ROOM)
    assert drain(far) == b"good"
    assert (written, rest, left) == (4, None, odd)


def test_a_part_of_a_frame_is_completed_by_the_next_record_or_comes_back(pair: Pair) -> None:
    near, far = pair
    whole = frame(b"a" * 12_000)
    stream = whole * 4
    tls = ScriptedTls(
        [stream[:MAX_FRAME_BYTES], stream[MAX_FRAME_BYTES : 2 * MAX_FRAME_BYTES], stream[2 * MAX_FRAME_BYTES : -1]]
    )
    written, _, rest, left, *_ = loop_of(tls).receive(TLS, near.fileno(), EPOCH, _ROOM)
    assert drain(far) == b"a" * 36_000
    assert (written, rest, left) == (36_000, None, whole[:-1])


def test_what_the_sink_doesnt_take_comes_back_before_what_is_left() -> None:
    near, far = socket_pair(1)
    with near, far:
        records = [frame(bytes([index]) * MAX_PAYLOAD_BYTES) for index in range(1, 5)]
        written, _, rest, left, *_ = loop_of(ScriptedTls(records)).receive(TLS, near.fileno(), EPOCH, _ROOM)
        came = drain(far)
    assert len(came) == written
    assert came + (rest or b"") == b"".join(record[HEADER_BYTES:] for record in records)
    assert left is None


def test_a_sink_that_has_gone_is_its_error_and_what_comes_behind_is_left(pair: Pair) -> None:
    near, far = pair
    far.close()
    tls = ScriptedTls([frame(b"lost") + frame(b"", kind=FrameType.END)])
    written, _, rest, left, broken, *_ = loop_of(tls).receive(TLS, near.fileno(), EPOCH, _ROOM)
    assert (written, rest, broken) == (0, None, errno.EPIPE)
    assert left == frame(b"", kind=FrameType.END)


def test_a_broken_tls_connection_is_told_after_what_came_before(pair: Pair) -> None:
    near, far = pair
    tls = ScriptedTls([frame(bytes(MAX_PAYLOAD_BYTES))], end=SYSCALL)
    written, *_, result, _ = loop_of(tls).receive(TLS, near.fileno(), EPOCH, _ROOM)
    assert (written, result) == (MAX_PAYLOAD_BYTES, -1)
    assert len(drain(far)) == MAX_PAYLOAD_BYTES


def test_without_frames_everything_passes(pair: Pair) -> None:
    near, far = pair
    written, _, rest, left, *_ = loop_of(ScriptedTls([b"x" * MAX_FRAME_BYTES, b"y"])).receive(
        TLS, near.fileno(), -1, _ROOM
    )
    assert drain(far) == b"x" * MAX_FRAME_BYTES + b"y"
    assert (written, rest, left) == (MAX_FRAME_BYTES + 1, None, None)


# ---- socket → socket ---------------------------------------------------------------------------------------------


def test_bytes_between_two_sockets_and_the_sources_end(pair: Pair) -> None:
    near, far = pair
    sink, other = socket_pair(4 << 20)
    loop = loop_of(ScriptedTls())
    with sink, other:
        far.send(b"plain")
        assert loop.forward(near.fileno(), sink.fileno()) == (_loop.WAITING, 5, None, 0, 0)
        assert drain(other) == b"plain"
        far.send(b"more")
        other.close()
        assert loop.forward(near.fileno(), sink.fileno()) == (_loop.WAITING, 0, None, errno.EPIPE, 0)
        far.close()
        assert loop.forward(near.fileno(), sink.fileno())[0] == _loop.ENDED


# ---- arguments ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [(0, 1, 1, 1), (TLS, -1, 1, 1), (TLS, 1 << 31, 1, 1), (TLS, 1, 256, 1), (TLS, 1, -2, 1), (TLS, 1, 1, -1)],
)
def test_an_argument_out_of_its_range_is_refused(arguments: tuple[int, int, int, int]) -> None:
    loop = loop_of(ScriptedTls())
    with pytest.raises(ValueError, match=r"null address|out of its range"):
        loop.send(*arguments, -1)
    with pytest.raises(ValueError, match=r"null address|out of its range"):
        loop.receive(*arguments)


@pytest.mark.parametrize("tunnel", [-2, 1 << 31])
def test_a_tunnel_out_of_its_range_is_refused(pair: Pair, tunnel: int) -> None:
    with pytest.raises(ValueError, match="out of its range"):
        loop_of(ScriptedTls()).send(TLS, pair[0].fileno(), EPOCH, _ROOM, tunnel)


def test_another_number_of_arguments_is_refused() -> None:
    loop = loop_of(ScriptedTls())
    with pytest.raises(TypeError, match="five arguments"):
        loop.send(1, 2, 3, 4)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="four arguments"):
        loop.receive(1, 2)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="two arguments"):
        loop.forward(1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="four addresses"):
        _loop.Loop(1)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="null address"):
        _loop.Loop(1, 2, 3, 0)
