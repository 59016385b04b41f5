"""The trace of frames: each frame once on both ends, in order, without its payload; nothing where it is off."""

from __future__ import annotations

import asyncio

import pytest

from shared.model.trust.certificate import BundleVerifier
from sidecar.tls.contexts import make_context
from sidecar.tls.records import Records
from sidecar.tls.role import Role
from sidecar.tunnel.frames import MAX_PAYLOAD_BYTES, FrameType, Opening
from sidecar.tunnel.handshake import Keys, establish_tunnel
from sidecar.tunnel.trace import FrameTrace
from sidecar.tunnel.tunnel import Tunnel
from tests.sidecar.little_ca import until
from tests.sidecar.pair import CLIENT, CLIENT_PROGRAM, SERVER, SERVER_PROGRAM, Mint, identify, running_pair
from tests.sidecar.pump.test_plain_pump import tcp_pair
from tests.sidecar.test_outbound import echo
from tests.sidecar.tls.test_handshake import make_tunnels
from tests.sidecar.tunnel.test_tunnel import Listener, until_closed, write_data

OPENING = Opening(connection="00" * 8, destination=("198.18.0.2", 5432), source=("198.18.0.1", 1))

Field = str | int | float | bool | None


class Written:
    """Events that remember."""

    def __init__(self) -> None:
        self.events: list[dict[str, Field]] = []

    def emit(self, event: str, **fields: Field) -> None:
        self.events.append({"event": event, **fields})

    def frames(self, direction: str) -> list[tuple[Field, Field, Field]]:
        """Type, epoch and length of each frame in one direction."""
        return [
            (each["frame"], each["epoch"], each["length"]) for each in self.events if each["direction"] == direction
        ]


async def make_traced_tunnels(initiator: Written, responder: Written) -> tuple[Tunnel, Tunnel]:
    mint, loop = Mint(), asyncio.get_running_loop()
    near, far = tcp_pair()

    async def shake(role: Role) -> Tunnel:
        is_initiator = role is Role.INITIATOR
        who = identify(CLIENT, CLIENT_PROGRAM) if is_initiator else identify(SERVER, SERVER_PROGRAM)
        credential = mint.issue(who)
        context, verifier = make_context(credential, mint.bundle, role), BundleVerifier(mint.bundle)
        keys = Keys(context=context, credential=credential, verifier=verifier)

        async def renew() -> Keys:
            return keys

        return await establish_tunnel(
            loop=loop,
            connection=near if is_initiator else far,
            keys=keys,
            renew=renew,
            role=role,
            timeout_s=20,
            port=5432,
            trace=FrameTrace(initiator if is_initiator else responder),
        )

    first, second = await asyncio.gather(shake(Role.INITIATOR), shake(Role.RESPONDER))
    return first, second


async def test_what_one_end_sends_the_other_receives(monkeypatch: pytest.MonkeyPatch) -> None:
    initiator, responder = Written(), Written()
    first, second = await make_traced_tunnels(initiator, responder)
    send_whole = Records.send
    # A frame in many records, as OpenSSL writes it for a peer that asks for short ones, is one frame still.
    monkeypatch.setattr(Records, "send", lambda self, data: send_whole(self, memoryview(data)[:512]))
    client, server = Listener(), Listener()
    first.attach(client)
    second.attach(server)
    opening = first.begin_opening(OPENING)
    first.write(opening)
    write_data(first, bytes(MAX_PAYLOAD_BYTES))
    await until(lambda: len(server.data) == MAX_PAYLOAD_BYTES)
    second.hold(FrameType.ACCEPT)
    write_data(second, b"secret answer")
    await until(lambda: client.data)
    sent = [("OPEN", 1, len(opening) - 4), ("DATA", 1, MAX_PAYLOAD_BYTES)]
    assert initiator.frames("sent") == responder.frames("received") == sent
    answered = [("ACCEPT", 1, 0), ("DATA", 1, len("secret answer"))]
    assert responder.frames("sent") == initiator.frames("received") == answered
    assert {(each["event"], each["tunnel"]) for each in initiator.events} == {("tunnel_frame", first.id)}
    assert "secret" not in str(initiator.events + responder.events)
    first.close()
    second.close()
    await until_closed(first, second)


async def test_after_a_frame_out_of_bounds_that_direction_says_nothing_more() -> None:
    written = Written()
    first, second = await make_traced_tunnels(Written(), written)
    user = Listener()
    second.attach(user)
    first.write(b"\xff\x01\x00\x00")
    await until(lambda: user.losses)
    assert written.events == []
    first.close()
    await until_closed(first, second)


async def test_a_tunnel_that_isnt_traced_has_plain_records() -> None:
    first, second = await make_tunnels(Mint())
    assert type(first._tls) is Records
    first.close()
    second.close()
    await until_closed(first, second)


async def test_a_pair_writes_each_frame_of_a_connection_on_both_sides() -> None:
    client, server = Written(), Written()
    async with running_pair(echo, traces=(FrameTrace(client), FrameTrace(server))) as pair:
        reader, writer = await pair.connect()
        writer.write(b"hello")
        writer.write_eof()
        assert await reader.read() == b"hello"
        writer.close()
        await until(lambda: pair.server.records and pair.client.records)
        await until(lambda: client.frames("received") == server.frames("sent"))
    kinds = [frame for frame, _, _ in server.frames("received")]
    assert kinds == ["OPEN", "DATA", "END"]
    assert client.frames("sent") == server.frames("received")
    assert [frame for frame, _, _ in server.frames("sent")] == ["ACCEPT", "DATA", "END"]
    assert {each["tunnel"] for each in client.events} == {pair.client.records[0].tunnel}
