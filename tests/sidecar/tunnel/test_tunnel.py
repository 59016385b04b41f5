"""The tunnel's I/O shell: frames over real TLS, the pinned record, loss, what waits for the next user."""

from __future__ import annotations

import asyncio

import pytest
from OpenSSL import SSL

from sidecar.tls.key_limit import RECORD_OVERHEAD_BYTES
from sidecar.tls.records import Records
from sidecar.tunnel.frames import HEADER_BYTES, MAX_PAYLOAD_BYTES, FrameType, Opening, encode_frame
from sidecar.tunnel.tunnel import Loss, Tunnel
from tests.sidecar.little_ca import until
from tests.sidecar.pair import Mint
from tests.sidecar.tls.test_handshake import make_tunnels

pytestmark = pytest.mark.usefixtures("engine")

OPENING = Opening(connection="00" * 8, destination=("198.18.0.2", 5432), source=("198.18.0.1", 1))


class Listener:
    """A user that remembers."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.frames: list[int] = []
        self.losses: list[Loss] = []
        self.drained = 0

    def on_data(self, payloads: list[memoryview]) -> None:
        for payload in payloads:
            self.data += payload

    def on_frame(self, frame: int, payload: bytes) -> None:
        self.frames.append(frame)

    def on_drained(self) -> None:
        self.drained += 1

    def on_lost(self, loss: Loss, detail: str) -> None:
        self.losses.append(loss)


async def until_closed(*ends: Tunnel) -> None:
    """Wait until the connections are closed: one that a test leaves open is blamed on the next."""
    await until(lambda: all(each.connection.fileno() < 0 for each in ends))


def write_data(tunnel: Tunnel, payload: bytes) -> bool:
    epoch = tunnel.turns.send(FrameType.DATA, len(payload))
    return tunnel.write(encode_frame(FrameType.DATA, epoch, payload))


async def test_a_pinned_record_goes_out_once_and_in_order() -> None:
    first, second = await make_tunnels(Mint())
    sender, receiver = Listener(), Listener()
    first.attach(sender)
    second.attach(receiver)
    first.write(first.begin_opening(OPENING))
    await until(lambda: receiver.frames)
    second.send(FrameType.ACCEPT)
    await until(lambda: sender.frames)
    second.pause()
    sent, number = bytearray(), 0
    while True:
        payload = number.to_bytes(4, "big") * 4000
        sent += payload
        number += 1
        if not write_data(first, payload):
            break
    first.send(FrameType.END)  # It waits behind the pinned record.
    assert not first.is_reusable
    second.resume()
    await until(lambda: FrameType.END in receiver.frames)
    assert receiver.data == sent
    assert sender.drained == 1
    first.close()
    second.close()
    await until_closed(first, second)


async def test_a_peer_that_asks_for_short_records_gets_every_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSSL then writes 512 bytes a call; none of our own peers asks for that."""
    send_whole = Records.send
    monkeypatch.setattr(Records, "send", lambda self, data: send_whole(self, memoryview(data)[:512]))
    first, second = await make_tunnels(Mint())
    sender, receiver = Listener(), Listener()
    first.attach(sender)
    second.attach(receiver)
    first.write(first.begin_opening(OPENING))
    await until(lambda: receiver.frames)
    second.send(FrameType.ACCEPT)
    await until(lambda: sender.frames)
    second.pause()
    sent, before, is_written = bytearray(), first.sent, True
    while is_written:
        payload = len(sent).to_bytes(4, "big") * 4000
        sent += payload
        is_written = write_data(first, payload)
    first.send(FrameType.END)
    second.resume()
    await until(lambda: FrameType.END in receiver.frames)
    assert receiver.data == sent
    # Each counts against the key's limit, with what encrypting it takes besides.
    assert first.sent - before > len(sent) + len(sent) // 512 * RECORD_OVERHEAD_BYTES
    first.close()
    second.close()
    await until_closed(first, second)


async def test_a_lost_tunnel_tells_its_user_once() -> None:
    first, second = await make_tunnels(Mint())
    user, closed = Listener(), list[Tunnel]()
    second.attach(user)
    second.call_when_closed(closed.append)
    first.close()
    await until(lambda: user.losses)
    second.lose(Loss.BROKEN, "")
    assert user.losses == [Loss.BROKEN]
    assert closed == [second]
    assert second.is_closed


async def test_a_reset_in_a_turn_is_read_before_the_connections_end() -> None:
    first, second = await make_tunnels(Mint())
    user = Listener()
    first.attach(Listener())
    second.attach(user)
    first.write(first.begin_opening(OPENING))
    write_data(first, b"last words")
    first.reset()
    await until(lambda: FrameType.RESET in user.frames)
    assert user.data == b"last words"
    second.close()
    await until_closed(first, second)


async def test_a_reset_that_crosses_the_other_ends_end_is_the_tunnels_end_and_no_fault() -> None:
    """The initiator's application breaks after it has ended, before the responder's END arrives."""
    first, second = await make_tunnels(Mint())
    user, other = Listener(), Listener()
    first.attach(user)
    second.attach(other)
    first.write(first.begin_opening(OPENING))
    await until(lambda: other.frames)
    second.send(FrameType.ACCEPT)
    first.send(FrameType.END)
    await until(lambda: FrameType.END in other.frames)
    first.pause()
    second.send(FrameType.END)
    first.reset()
    await until(lambda: other.losses)
    assert other.losses == [Loss.BROKEN]
    await until_closed(first, second)


async def test_what_comes_while_nobody_uses_the_tunnel_waits_for_the_next_user() -> None:
    first, second = await make_tunnels(Mint())
    first.attach(Listener())
    first.write(first.begin_opening(OPENING))
    await asyncio.sleep(0.05)
    user = Listener()
    second.attach(user)
    await until(lambda: user.frames == [FrameType.OPEN])
    first.close()
    second.close()
    await until_closed(first, second)


async def test_after_a_disowned_open_nothing_is_processed_and_the_initiator_may_retry() -> None:
    first, second = await make_tunnels(Mint())
    client, server = Listener(), Listener()
    first.attach(client)
    second.attach(server)
    first.write(first.begin_opening(OPENING))
    await until(lambda: server.frames)
    second.say_unprocessed()
    await until(lambda: FrameType.CLOSING in client.frames)
    assert first.turns.is_retry_allowed()
    assert second.is_closed
    first.close()
    await until_closed(first, second)


async def test_a_closing_that_meets_a_full_tunnel_is_written_before_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = await make_tunnels(Mint())
    client, server = Listener(), Listener()
    first.attach(client)
    second.attach(server)
    first.write(first.begin_opening(OPENING))
    await until(lambda: server.frames)
    with monkeypatch.context() as patch:

        def send_nothing(records: Records, data: bytes | memoryview) -> int:
            raise SSL.WantWriteError

        patch.setattr(Records, "send", send_nothing)
        second.say_unprocessed()
        second.close()  # As the story does at its end.
    await until(lambda: FrameType.CLOSING in client.frames)
    assert first.turns.is_retry_allowed()
    await until(lambda: second.is_closed)
    first.close()
    await until_closed(first, second)


async def test_a_held_frame_goes_in_front_of_the_next_one_in_one_record() -> None:
    first, second = await make_tunnels(Mint())
    client, server = Listener(), Listener()
    first.attach(client)
    second.attach(server)
    first.write(first.begin_opening(OPENING))
    await until(lambda: server.frames)
    second.hold(FrameType.ACCEPT)
    assert not second.is_reusable
    assert second.sent == 0
    write_data(second, b"answer")
    assert second.sent == RECORD_OVERHEAD_BYTES + 2 * HEADER_BYTES + len(b"answer")
    await until(lambda: client.data)
    assert client.frames == [FrameType.ACCEPT]
    first.close()
    second.close()
    await until_closed(first, second)


async def test_a_held_frame_goes_alone_when_nothing_follows() -> None:
    first, second = await make_tunnels(Mint())
    client, server = Listener(), Listener()
    first.attach(client)
    second.attach(server)
    first.write(first.begin_opening(OPENING))
    await until(lambda: server.frames)
    second.hold(FrameType.ACCEPT)
    await until(lambda: client.frames == [FrameType.ACCEPT])
    second.release()  # Nothing is held any more.
    second.hold(FrameType.END)
    second.reset()
    await until(lambda: FrameType.RESET in client.frames)
    assert client.frames == [FrameType.ACCEPT, FrameType.END, FrameType.RESET]
    first.close()
    await until_closed(first, second)


async def test_a_held_frame_doesnt_share_a_record_that_is_full() -> None:
    first, second = await make_tunnels(Mint())
    client, server = Listener(), Listener()
    first.attach(client)
    second.attach(server)
    first.write(first.begin_opening(OPENING))
    await until(lambda: server.frames)
    second.hold(FrameType.ACCEPT)
    write_data(second, bytes(MAX_PAYLOAD_BYTES))
    assert second.sent == 2 * (RECORD_OVERHEAD_BYTES + HEADER_BYTES) + MAX_PAYLOAD_BYTES
    await until(lambda: len(client.data) == MAX_PAYLOAD_BYTES)
    first.close()
    second.close()
    await until_closed(first, second)


async def test_a_fault_of_the_user_ends_the_tunnel_instead_of_losing_bytes() -> None:
    first, second = await make_tunnels(Mint())

    class Faulty(Listener):
        def on_data(self, payloads: list[memoryview]) -> None:
            raise RuntimeError("a fault of ours")

    client, server = Listener(), Faulty()
    first.attach(client)
    second.attach(server)
    first.write(first.begin_opening(OPENING))
    await until(lambda: server.frames)
    epoch = second.turns.epoch
    second.send(FrameType.ACCEPT)
    await until(lambda: client.frames)
    with pytest.raises(RuntimeError):
        second._process(memoryview(bytes([FrameType.DATA, epoch, 0, 1, 7])))
    assert second.is_closed
    assert server.losses == [Loss.BROKEN]
    first.close()
    await until_closed(first, second)
