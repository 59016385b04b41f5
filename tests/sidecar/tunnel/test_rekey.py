"""A tunnel whose keys are used up (``sidecar/tls/key_limit.py``) makes new ones, and no application sees it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from shared.model.policy.decision import Ending
from sidecar.parts import Limits
from sidecar.tls import contexts
from sidecar.tls.contexts import ALPN_BEFORE
from sidecar.tls.key_limit import RENEWED_AT_BYTES
from sidecar.tls.resumption import PER_WHOLE
from sidecar.tunnel import tunnel
from sidecar.tunnel.frames import FrameType
from sidecar.tunnel.tunnel import Tunnel
from sidecar.tunnel.user import Loss, Renewal
from tests.sidecar.little_ca import until
from tests.sidecar.pair import Mint, running_pair
from tests.sidecar.tls.test_handshake import make_tunnels
from tests.sidecar.tunnel.test_tunnel import OPENING, Listener, until_closed, write_data

pytestmark = pytest.mark.usefixtures("engine")


def limit_keys(key_bytes: int) -> Limits:
    return Limits(client_hello_s=60, handshake_s=60, open_s=60, dial_s=60, reset_s=60, key_bytes=key_bytes)


async def begin_turn(
    first: Tunnel, second: Tunnel, client: Listener, server: Listener, *, is_accepted: bool = True
) -> None:
    first.attach(client)
    second.attach(server)
    first.write(first.begin_opening(OPENING))
    await until(lambda: server.frames)
    if is_accepted:
        second.send(FrameType.ACCEPT)
        await until(lambda: client.frames)


async def make_turn(
    *, key_bytes: int = RENEWED_AT_BYTES, is_accepted: bool = True
) -> tuple[Tunnel, Tunnel, Listener, Listener]:
    """Both ends of a tunnel in a turn, the initiator's first, and what listens to them."""
    first, second = await make_tunnels(Mint(), key_bytes=key_bytes)
    client, server = Listener(), Listener()
    await begin_turn(first, second, client, server, is_accepted=is_accepted)
    return first, second, client, server


@pytest.fixture
def handshakes(monkeypatch: pytest.MonkeyPatch) -> list[Tunnel]:
    """The tunnels that have renewed their keys, once for each time."""
    renewed: list[Tunnel] = []
    begin = Tunnel._begin_handshake

    def note(tunnel: Tunnel) -> None:
        renewed.append(tunnel)
        begin(tunnel)

    monkeypatch.setattr(Tunnel, "_begin_handshake", note)
    return renewed


async def exchange(payload: bytes, answer: Callable[[bytes], bytes], **limits: int) -> tuple[bytes, list[Ending]]:
    """Send a payload through a pair of sidecars to an application that answers each piece; return what came back."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(answer(data))
            await writer.drain()
        writer.close()

    async with running_pair(serve, limits=limit_keys(**limits)) as pair:
        reader, writer = await pair.connect()

        async def send() -> None:
            for start in range(0, len(payload), 50_000):
                writer.write(payload[start : start + 50_000])
                await writer.drain()
            writer.write_eof()

        sending = asyncio.create_task(send())
        async with asyncio.timeout(120):
            came = await reader.read(-1)
            await sending
        writer.close()
        await until(lambda: pair.client.records and pair.server.records)
        records = [*pair.client.records, *pair.server.records]
        assert {record.bytes_sent for record in records if record is pair.client.records[0]} == {len(payload)}
        return came, [record.ending for record in records]


@pytest.mark.parametrize("answers", ["nothing", "an echo"])
async def test_bytes_go_on_where_they_stood(handshakes: list[Tunnel], answers: str) -> None:
    payload = random.Random(7).randbytes(6_000_000)
    came, endings = await exchange(
        payload, (lambda data: data) if answers == "an echo" else lambda _: b"", key_bytes=500_000
    )
    assert came == (payload if answers == "an echo" else b"")
    assert endings == [Ending.FINISHED, Ending.FINISHED]
    assert len(handshakes) > 2 * 6


async def test_new_keys_are_made_by_a_whole_handshake(handshakes: list[Tunnel]) -> None:
    """The peer proves again that it holds its key; secrets of earlier handshakes stay unused."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(-1))
        writer.close()

    async with running_pair(serve, limits=limit_keys(400_000)) as pair:
        reader, writer = await pair.connect()
        writer.write(bytes(1_000_000))
        writer.write_eof()
        async with asyncio.timeout(120):
            assert await reader.read(-1) == bytes(1_000_000)
        writer.close()
        await until(lambda: pair.client.records and pair.server.records)
        for secrets in (pair.client.sidecar.connector.secrets, pair.server.sidecar.secrets):
            assert (secrets.full, secrets.resumed, len(secrets)) == (1, 0, PER_WHOLE)
    assert handshakes


async def test_what_only_the_responder_sends_uses_up_keys_as_well(handshakes: list[Tunnel]) -> None:
    came, endings = await exchange(b"x", lambda _: bytes(4_000_000), key_bytes=500_000)
    assert (len(came), endings) == (4_000_000, [Ending.FINISHED, Ending.FINISHED])
    assert handshakes


async def test_small_requests_go_on_for_ever(handshakes: list[Tunnel]) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    async with running_pair(echo, limits=limit_keys(20_000)) as pair:
        reader, writer = await pair.connect()
        for number in range(2_000):
            writer.write(b"%07d" % number)
            async with asyncio.timeout(120):
                assert await reader.readexactly(7) == b"%07d" % number
        writer.close()
        await until(lambda: pair.client.records and pair.server.records)
        assert pair.client.records[0].ending is Ending.FINISHED
        assert len(handshakes) >= 8
        assert pair.tunnels_accepted == 1


async def test_an_application_that_reads_nothing_until_it_has_written_all_is_not_stopped(
    handshakes: list[Tunnel],
) -> None:
    """The responder's REKEY is behind what that application doesn't take."""
    received = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes(900_000))
        total = 0
        while data := await reader.read(65536):
            total += len(data)
        assert total == 3_000_000
        received.set()
        writer.close()

    async with running_pair(serve, limits=limit_keys(400_000)) as pair:
        reader, writer = await asyncio.open_connection(*pair.entrance, limit=1)
        async with asyncio.timeout(120):
            for _ in range(30):
                writer.write(bytes(100_000))
                await writer.drain()
            writer.write_eof()
            await received.wait()
            assert len(await reader.read(-1)) == 900_000
        writer.close()
        assert handshakes


async def test_a_renewed_tunnel_carries_no_further_connection() -> None:
    first, second, client, server = await make_turn(key_bytes=10_000)
    write_data(first, bytes(11_000))
    assert first.is_blocked
    await until(lambda: client.drained)
    assert (first.is_blocked, first.sent) == (False, 0)
    write_data(first, b"more")
    for end in (first, second):
        end.send(FrameType.END)
    await until(lambda: FrameType.END in client.frames and FrameType.END in server.frames)
    assert (len(server.data), bytes(server.data[-4:])) == (11_004, b"more")
    assert first.turns.is_idle and not first.is_reusable and not second.is_reusable
    first.close()
    second.close()
    await until_closed(first, second)


async def test_an_earlier_releases_tunnel_ends_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contexts, "ALPN", ALPN_BEFORE)
    monkeypatch.setattr(tunnel, "MAX_KEY_BYTES", 10_000)
    first, second, client, _server = await make_turn(key_bytes=10_000)
    write_data(first, bytes(9_000))
    assert not first.is_blocked
    write_data(first, bytes(2_000))
    await until(lambda: client.losses)
    assert client.losses == [Loss.RECORD_LIMIT]
    second.close()
    await until_closed(first, second)


@pytest.mark.parametrize("by", ["initiator", "responder"])
async def test_a_rekey_that_may_not_come_breaks_the_protocol(by: str) -> None:
    first, second, client, server = await make_turn(is_accepted=False)
    sender, listener = (first, server) if by == "initiator" else (second, client)
    frame = bytes([FrameType.REKEY, first.turns.epoch, 0, 0])
    # The initiator's may come, but nothing behind it; the responder's only when it was asked for.
    sender._write_now(frame + (bytes([FrameType.DATA, first.turns.epoch, 0, 1, 7]) if by == "initiator" else b""))
    await until(lambda: listener.losses)
    assert listener.losses == [Loss.PROTOCOL]
    for each in (first, second):
        each.close()
    await until_closed(first, second)


async def test_new_keys_without_bytes_in_between_are_refused() -> None:
    first, second, _client, server = await make_turn(is_accepted=False)
    first._renewal = Renewal.ASKED
    first._write_now(bytes([FrameType.REKEY, first.turns.epoch, 0, 0]))
    await until(lambda: server.losses)
    assert server.losses == [Loss.PROTOCOL]
    first.close()
    await until_closed(first, second)


async def test_a_responders_last_record_that_goes_out_with_its_rekey_is_told_before_the_handshake() -> None:
    """The initiator has all that it waits for by then, and may close: that is no loss."""
    first, second, _client, server = await make_turn()
    told_in: list[Renewal] = []

    class Told(Listener):
        def on_drained(self) -> None:
            told_in.append(second._renewal)

    first.send(FrameType.END)
    await until(lambda: FrameType.END in server.frames)
    second.user = Told()
    first.pause()
    while write_data(second, bytes(16_000)):
        pass
    assert not second.send(FrameType.END)
    first._renew_at = 1
    first._note_use()  # The initiator reads on from here, until the responder's REKEY.
    await until(lambda: told_in)
    assert told_in[0] is Renewal.ANSWERED
    await close_both(first, second)


async def test_a_tunnel_that_ends_while_it_makes_new_keys_leaves_nothing_behind() -> None:
    first, second, _client, server = await make_turn(key_bytes=10_000)
    write_data(first, bytes(11_000))
    await until(lambda: first._renewing is not None)
    first.close()
    await until(lambda: server.losses)
    assert server.losses == [Loss.BROKEN]
    assert first._renewing is not None
    await asyncio.gather(first._renewing, return_exceptions=True)
    await until_closed(first, second)


async def close_both(*ends: Tunnel) -> None:
    for each in ends:
        each.close()
    await until_closed(*ends)


async def test_the_connection_stays_open_for_a_handshakes_step_that_is_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Closed, its descriptor would be the next connection's, whose bytes the step would take."""
    first, second = await make_tunnels(Mint(), key_bytes=10_000)
    client, server = Listener(), Listener()
    await begin_turn(first, second, client, server)
    seen: list[int] = []

    async def rekey() -> None:
        try:
            await asyncio.Event().wait()
        finally:  # As ``handshake_workers.compute`` does: a step that has begun is waited for.
            await asyncio.sleep(0.1)
            seen.append(first.connection.fileno())

    monkeypatch.setattr(first, "_rekey", rekey)
    write_data(first, bytes(11_000))
    await until(lambda: first._renewing is not None)
    await asyncio.sleep(0)
    first.close()
    await until(lambda: seen)
    assert seen[0] >= 0
    await close_both(first, second)


async def test_a_fault_while_new_keys_are_made_ends_the_tunnel(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = await make_tunnels(Mint(), key_bytes=10_000)
    client, server = Listener(), Listener()
    await begin_turn(first, second, client, server)

    async def rekey() -> None:
        raise ValueError("a fault of ours")

    monkeypatch.setattr(first, "_rekey", rekey)
    write_data(first, bytes(11_000))
    await until(lambda: client.losses)
    assert client.losses == [Loss.BROKEN]
    await close_both(first, second)


async def test_a_user_that_closes_the_tunnel_at_the_last_bytes_before_the_new_keys_ends_it_for_good() -> None:
    first, second = await make_tunnels(Mint(), key_bytes=10_000)
    server = Listener()

    class Closing(Listener):
        def on_data(self, payloads: list[memoryview]) -> None:
            first.close()

    client = Closing()
    await begin_turn(first, second, client, server)
    write_data(first, bytes(11_000))
    data = bytes([FrameType.DATA, second.turns.epoch, 0, 1, 7])
    first._process(memoryview(data + bytes([FrameType.REKEY, second.turns.epoch, 0, 0])))
    assert first.is_closed and first._renewing is None
    await close_both(first, second)


async def test_a_peer_that_goes_on_without_new_keys_is_read_only_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnel, "_MAX_READ_AHEAD_BYTES", 100_000)
    first, second = await make_tunnels(Mint(), key_bytes=10_000)

    class Full(Listener):
        def on_data(self, payloads: list[memoryview]) -> None:
            super().on_data(payloads)
            first.pause()

    client, server = Full(), Listener()
    await begin_turn(first, second, client, server)
    second.pause()  # It doesn't see the question for new keys.
    monkeypatch.setattr(second, "_renew_at", 1 << 40)
    write_data(first, bytes(11_000))
    for _ in range(100):
        if not write_data(second, bytes(16_000)):
            break
        await asyncio.sleep(0)
    await until(lambda: not first._is_reading)
    assert 100_000 <= len(client.data) < 200_000
    await close_both(first, second)
