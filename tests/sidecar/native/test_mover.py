"""A thread that moves bytes by itself: what it moves, when a connection comes back, who owns it until then."""

from __future__ import annotations

import os
import select
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from OpenSSL import SSL

from sidecar.native import build
from sidecar.native.engine import load, make_proof, start_mover
from sidecar.tls.contexts import make_context
from sidecar.tls.records import Records
from sidecar.tls.role import Role
from sidecar.tunnel.frames import HEADER, HEADER_BYTES, MAX_PAYLOAD_BYTES, FrameType
from tests.sidecar.native.malformed import EPOCH, socket_pair
from tests.sidecar.native.scripted_tls import TLS, ScriptedTls
from tests.sidecar.pair import CLIENT, CLIENT_PROGRAM, SERVER, SERVER_PROGRAM, Mint, identify

if load() is None:
    pytest.skip("the native engine isn't built: it takes a C compiler and Python's headers", allow_module_level=True)

from sidecar.native import _loop

_ROOM = 1 << 40
_DEADLINE_S = 60.0
_SOURCES = [Path(__file__).parent / "mover_fuzz.c", build.FOLDER / "mover.c", build.FOLDER / "moves.c"]


class Stay:
    """One mover with one connection: what the thread has, and the other ends."""

    def __init__(self, tls: ScriptedTls) -> None:
        self.tls = tls  # The thread calls its functions.
        self.mover = start_mover(_loop.Loop(*tls.addresses))
        self.mover.allow(1 << 60)
        (self.application, self.app), (self.tunnel, self.peer) = socket_pair(1 << 20), socket_pair(1 << 20)

    def lend(self, proof: _loop.Proof | None = None, *, room: int = _ROOM) -> int:
        return self.mover.lend(TLS, self.application.fileno(), self.tunnel.fileno(), EPOCH, room, _ROOM, proof, False)

    def wait(self) -> list[int]:
        """What comes back next."""
        ready, _, _ = select.select([self.mover], [], [], _DEADLINE_S)
        assert ready, "nothing came back"
        return self.mover.collect()

    def close(self) -> None:
        self.mover.stop()
        for each in (self.application, self.app, self.tunnel, self.peer):
            each.close()


@pytest.fixture(name="tls")
def scripted() -> ScriptedTls:
    return ScriptedTls([b"no frame"])


@pytest.fixture(name="stay")
def one(tls: ScriptedTls) -> Iterator[Stay]:
    stay = Stay(tls)
    yield stay
    stay.close()


def test_the_thread_moves_what_comes_and_what_ends_a_stay_comes_back_with_it(stay: Stay, tls: ScriptedTls) -> None:
    number = stay.lend(room=5)
    stay.app.send(b"question")
    assert stay.wait() == [number]  # The key's room is used.
    taken, send_used, written, receive_used, upward, downward = stay.mover.recall(number)
    assert upward == (_loop.LIMIT, None, 1, 0, 0)
    assert (taken, written, receive_used, downward) == (8, 0, 0, None)
    assert bytes(tls.written).endswith(b"question")
    assert send_used == len(tls.written) + _loop.OVERHEAD_BYTES
    with pytest.raises(ValueError, match="isn't lent"):
        stay.mover.recall(number)


class BlocksOnce(ScriptedTls):
    """Its second write can't be made at once."""

    def _write(self, tls: int, buffer: int, size: int) -> int:
        self._left = 0 if self.writes == 1 and self._left is None else None
        return super()._write(tls, buffer, size)


@pytest.mark.parametrize("tls", [BlocksOnce(takes=[6])])
def test_a_record_that_was_begun_is_written_to_its_end_before_the_key_is_used_up(stay: Stay, tls: ScriptedTls) -> None:
    number = stay.lend(room=5)
    stay.app.send(b"question")
    assert stay.wait() == [number]
    taken, send_used, _, _, upward, _ = stay.mover.recall(number)
    assert upward is not None
    assert upward[:2] == (_loop.LIMIT, None)
    assert (taken, bytes(tls.written[HEADER_BYTES:])) == (8, b"question")
    assert send_used == len(tls.written) + 2 * _loop.OVERHEAD_BYTES


def test_what_isnt_a_plain_frame_comes_back_unread(stay: Stay) -> None:
    number = stay.lend()
    stay.peer.send(b"a record")
    assert stay.wait() == [number]
    _, _, written, _, upward, downward = stay.mover.recall(number)
    assert (written, upward, downward) == (0, None, (None, b"no frame", 0, 1, 0, 0))


def test_an_end_comes_back_before_its_last_bytes_are_read(stay: Stay) -> None:
    stay.app.send(b"last words")
    stay.app.shutdown(socket.SHUT_WR)
    number = stay.lend()
    assert stay.wait() == [number]
    assert stay.mover.recall(number) == (0, 0, 0, 0, None, None)
    assert stay.application.recv(100) == b"last words"


def test_nothing_passes_once_the_program_isnt_plainly_the_attested_one(stay: Stay) -> None:
    here = os.stat("/proc/self/exe")
    memory = os.memfd_create("maps")
    directory = os.open("/proc/self", os.O_PATH)
    try:
        proofs = {
            name: make_proof(None, maps=memory, directory=directory, device=here.st_dev, inode=inode, max_age_s=0)
            for name, inode in (("right", here.st_ino), ("another file", here.st_ino + 1))
        }
        os.write(memory, b"0")
        number = stay.lend(proofs["another file"])
        stay.app.send(b"question")
        assert stay.wait() == [number]
        assert stay.mover.recall(number) == (0, 0, 0, 0, None, None)
        number = stay.lend(proofs["right"], room=5)
        assert stay.wait() == [number]
        assert stay.mover.recall(number)[0] == 8
        os.ftruncate(memory, 0)
        number = stay.lend(proofs["right"])
        stay.app.send(b"question")
        assert stay.wait() == [number]
        assert stay.mover.recall(number) == (0, 0, 0, 0, None, None)
    finally:
        os.close(memory)
        os.close(directory)


def test_nothing_passes_while_who_lends_doesnt_say_that_it_lives(stay: Stay) -> None:
    stay.mover.allow(0)
    number = stay.lend()
    stay.app.send(b"question")
    assert stay.wait() == [number]
    assert stay.mover.recall(number) == (0, 0, 0, 0, None, None)
    stay.mover.allow(1 << 60)
    number = stay.lend(room=5)
    assert stay.wait() == [number]
    assert stay.mover.recall(number)[0] == len(b"question")


def test_what_is_recalled_isnt_touched_any_more_nor_what_is_lent_once_the_thread_has_ended(stay: Stay) -> None:
    stay.mover.recall(stay.lend())
    stay.app.send(b"question")
    stay.mover.stop()
    with pytest.raises(OSError):
        stay.lend()
    assert stay.application.recv(100) == b"question"
    assert stay.mover.collect() == []


def test_a_thread_and_its_end_leave_what_another_one_has_alone(stay: Stay, tls: ScriptedTls) -> None:
    other = Stay(tls)
    try:
        one, another = stay.lend(room=5), other.lend(room=5)
        assert one == another  # Each counts for itself.
        stay.app.send(b"question")
        assert stay.wait() == [one]
        assert stay.mover.recall(one)[0] == len(b"question")
        stay.mover.stop()
        assert other.mover.counts(another) == (0, 0)
        other.app.send(b"another")
        assert other.wait() == [another]
        assert other.mover.recall(another)[0] == len(b"another")
        assert other.mover.collect() == []
    finally:
        other.close()


def test_two_threads_look_at_one_proof(stay: Stay, tls: ScriptedTls) -> None:
    here = os.stat("/proc/self/exe")
    memory = os.memfd_create("maps")
    directory = os.open("/proc/self", os.O_PATH)
    other = Stay(tls)
    try:
        proof = make_proof(None, maps=memory, directory=directory, device=here.st_dev, inode=here.st_ino, max_age_s=0)
        os.write(memory, b"0")
        for each in (stay, other):
            number = each.lend(proof, room=5)
            each.app.send(b"question")
            assert each.wait() == [number]
            assert each.mover.recall(number)[0] == len(b"question")
        os.ftruncate(memory, 0)
        for each in (stay, other):
            number = each.lend(proof)
            each.app.send(b"question")
            assert each.wait() == [number]
            assert each.mover.recall(number) == (0, 0, 0, 0, None, None)
    finally:
        other.close()
        os.close(memory)
        os.close(directory)


def test_a_descriptor_that_epoll_doesnt_take_isnt_lent(stay: Stay, tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file, pytest.raises(PermissionError):
        stay.mover.lend(TLS, stay.application.fileno(), file.fileno(), EPOCH, _ROOM, _ROOM, None, False)
    assert stay.mover.counts(stay.lend()) == (0, 0)


class Tunnel:
    """OpenSSL itself: this end reads and writes a socket; ``far`` is the other end, in memory, and ``peer`` its socket.

    What isn't read at ``app`` or ``peer`` is soon too much for this end's sockets.
    """

    def __init__(self) -> None:
        mint = Mint()
        credentials = mint.issue(identify(CLIENT, CLIENT_PROGRAM)), mint.issue(identify(SERVER, SERVER_PROGRAM))
        contexts = [
            make_context(credential, mint.bundle, role)
            for credential, role in zip(credentials, (Role.INITIATOR, Role.RESPONDER), strict=True)
        ]
        (self.application, self.app), (self.socket, self.peer) = socket_pair(4096), socket_pair(4096)
        self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self.near, self.far = SSL.Connection(contexts[0], self.socket), SSL.Connection(contexts[1])
        self.near.set_connect_state()
        self.far.set_accept_state()
        for _ in range(3):
            for end in (self.near, self.far):
                with suppress(SSL.WantReadError):
                    end.do_handshake()
                with suppress(SSL.WantReadError):
                    self.peer.send(self.far.bio_read(1 << 16))
                with suppress(BlockingIOError):
                    self.far.bio_write(self.peer.recv(1 << 16))
        for each in (self.app, self.peer):
            each.settimeout(_DEADLINE_S)
        self.records = Records(self.near)
        loop = load()
        assert loop is not None
        self.mover = start_mover(loop)
        self.mover.allow(1 << 60)

    def lend(self, *, is_held: bool = False) -> int:
        address, application = self.records.address, self.application.fileno()
        return self.mover.lend(address, application, self.socket.fileno(), EPOCH, _ROOM, _ROOM, None, is_held)

    def encrypt(self, payloads: Sequence[bytes]) -> bytes:
        """What the peer sends: a record for each frame."""
        for payload in payloads:
            self.far.send(HEADER.pack(FrameType.DATA, EPOCH, len(payload)) + payload)
        return self.far.bio_read(1 << 20)

    def decrypt(self, size: int) -> bytes:
        """The next so many bytes of payload that this end has sent."""
        came = b""
        while len(came) < size:
            try:
                frame = self.far.recv(HEADER_BYTES + MAX_PAYLOAD_BYTES)
            except SSL.WantReadError:
                self.far.bio_write(self.peer.recv(1 << 16))
                continue
            assert HEADER.unpack_from(frame) == (FrameType.DATA, EPOCH, len(frame) - HEADER_BYTES)
            came += frame[HEADER_BYTES:]
        return came

    def close(self) -> None:
        self.mover.stop()
        for each in (self.application, self.app, self.socket, self.peer):
            each.close()


def receive(connection: socket.socket, size: int) -> bytes:
    came = b""
    while len(came) < size:
        data = connection.recv(size - len(came))
        assert data
        came += data
    return came


@pytest.fixture(name="tunnel")
def real() -> Iterator[Tunnel]:
    tunnel = Tunnel()
    yield tunnel
    tunnel.close()


_PAYLOADS = [bytes([number]) * MAX_PAYLOAD_BYTES for number in range(12)]


def test_what_waits_for_the_application_is_written_once_it_reads(tunnel: Tunnel) -> None:
    tunnel.peer.sendall(tunnel.encrypt(_PAYLOADS))
    number = tunnel.lend()
    assert receive(tunnel.app, len(_PAYLOADS) * MAX_PAYLOAD_BYTES) == b"".join(_PAYLOADS)
    tunnel.app.send(b"answer")
    assert tunnel.decrypt(6) == b"answer"
    taken, _, written, _, upward, downward = tunnel.mover.recall(number)
    assert (taken, written, upward, downward) == (6, len(_PAYLOADS) * MAX_PAYLOAD_BYTES, None, None)


def test_what_waits_for_the_application_comes_back_with_a_recall(tunnel: Tunnel) -> None:
    tunnel.peer.sendall(tunnel.encrypt(_PAYLOADS[:5]))
    number = tunnel.lend()
    assert tunnel.app.recv(1, socket.MSG_PEEK)
    written, receive_used, upward, downward = tunnel.mover.recall(number)[2:]
    whole = b"".join(_PAYLOADS[:5])
    # One batch: the application takes no more than a part of it.
    assert receive_used == 4 * (_loop.RECORD_BYTES + _loop.OVERHEAD_BYTES)
    assert (upward, downward) == (None, (whole[written : 4 * MAX_PAYLOAD_BYTES], None, 0, 1, 0, 0))
    assert receive(tunnel.app, written) == whole[:written]


def test_what_waits_for_the_tunnel_is_written_once_it_is_read_and_the_other_direction_goes_on(tunnel: Tunnel) -> None:
    whole = b"".join(_PAYLOADS)
    tunnel.app.sendall(whole[:60_000])
    number = tunnel.lend()
    assert tunnel.peer.recv(1, socket.MSG_PEEK)
    tunnel.peer.sendall(tunnel.encrypt(_PAYLOADS[:7]))
    assert receive(tunnel.app, 7 * MAX_PAYLOAD_BYTES) == whole[: 7 * MAX_PAYLOAD_BYTES]
    assert tunnel.decrypt(60_000) == whole[:60_000]
    taken, _, written, _, upward, downward = tunnel.mover.recall(number)
    assert (taken, written, upward, downward) == (60_000, 7 * MAX_PAYLOAD_BYTES, None, None)


def test_what_waits_for_the_tunnel_comes_back_with_a_recall(tunnel: Tunnel) -> None:
    whole = b"".join(_PAYLOADS)
    tunnel.app.sendall(whole[:60_000])
    number = tunnel.lend()
    assert tunnel.peer.recv(1, socket.MSG_PEEK)
    taken, _, _, _, upward, downward = tunnel.mover.recall(number)
    assert upward is not None
    status, rest, *_ = upward
    assert (status, taken, downward) == (_loop.BLOCKED, 60_000, None)
    for record in rest or ():
        while True:
            try:
                assert tunnel.records.send(record) == len(record)
            except SSL.WantWriteError:
                tunnel.far.bio_write(tunnel.peer.recv(1 << 16))
                continue
            break
    assert tunnel.decrypt(60_000) == whole[:60_000]


def test_an_application_that_may_not_be_read_is_written_and_comes_back_unread_with_its_answer(tunnel: Tunnel) -> None:
    number = tunnel.lend(is_held=True)
    tunnel.peer.sendall(tunnel.encrypt(_PAYLOADS))
    assert receive(tunnel.app, len(_PAYLOADS) * MAX_PAYLOAD_BYTES) == b"".join(_PAYLOADS)
    assert tunnel.mover.counts(number) == (0, len(_PAYLOADS) * MAX_PAYLOAD_BYTES)
    tunnel.app.send(b"answer")
    ready, _, _ = select.select([tunnel.mover], [], [], _DEADLINE_S)
    assert ready
    assert tunnel.mover.collect() == [number]
    taken, _, written, _, upward, downward = tunnel.mover.recall(number)
    assert (taken, written, upward, downward) == (0, len(_PAYLOADS) * MAX_PAYLOAD_BYTES, None, None)
    assert tunnel.application.recv(100) == b"answer"


@pytest.mark.parametrize(
    "flags",
    [
        ("-fsanitize=thread",),
        # Of one thread the buffer is guarded as well.
        ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-DOF_THREAD=", "-DMOVERS=1"),
        ("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    ],
    ids=["threads", "memory", "memory of two"],
)
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_lending_and_recalling_at_random_loses_no_byte_and_is_no_race(flags: Sequence[str], tmp_path: Path) -> None:
    made = tmp_path / "fuzz"
    command = ["cc", "-std=c11", "-D_GNU_SOURCE", "-g", "-O1", *flags, f"-I{build.FOLDER}", *map(str, _SOURCES)]
    subprocess.run([*command, "-pthread", "-o", str(made)], check=True, timeout=300)
    done = subprocess.run([made], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
