"""The connector: what it gives out, what it closes, and what it remembers of failed dials. Over real sockets."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from typing import Any, cast

import pytest
from msgspec.structs import replace

from shared.model.errors import VerificationError
from shared.model.identity.program import Program
from shared.model.policy.reasons import Reason
from sidecar.credential.credential import Credential
from sidecar.sockets.address import Endpoint
from sidecar.sockets.dial import DialError
from sidecar.tunnel.connector import Connector
from sidecar.tunnel.dial_failures import DialFailures
from sidecar.tunnel.frames import FrameType
from sidecar.tunnel.handshake import Keys
from sidecar.tunnel.pool import TunnelKey
from sidecar.tunnel.tunnel import Loss, Tunnel
from sidecar.tunnel.turns import SideState
from tests.sidecar.little_ca import until
from tests.sidecar.pair import (
    CLIENT,
    CLIENT_PROGRAM,
    SERVER,
    SERVER_PROGRAM,
    Mint,
    Pair,
    accept_forever,
    identify,
    running_pair,
    serve_tunnel,
)
from tests.sidecar.test_outbound import closed_port, echo

OTHER_PROGRAM = Program(digest="c" * 64)


def key_of(pair: Pair) -> TunnelKey:
    credential = pair.client.credentials.by_program[CLIENT_PROGRAM]
    return TunnelKey(
        identity=str(credential.identity),
        generation=credential.generation,
        destination=pair.application,
        workload=SERVER,
    )


async def test_a_released_tunnel_is_acquired_again_without_another_handshake() -> None:
    async with running_pair(echo) as pair:
        connector, key = pair.client.sidecar.connector, key_of(pair)
        credential = pair.client.credentials.by_program[CLIENT_PROGRAM]
        first = await connector.acquire(key, credential, tunnel_port=pair.tunnel[1])
        connector.release(key, first)
        assert len(connector) == 1
        assert await connector.acquire(key, credential, tunnel_port=pair.tunnel[1]) is first
        assert (len(connector), pair.tunnels_accepted) == (0, 1)
        first.close()


async def acquire_aborted(pair: Pair) -> Tunnel:
    """A tunnel whose turn was aborted and whose peer hasn't answered that; the connector has it back."""
    connector, credential = pair.client.sidecar.connector, pair.client.credentials.by_program[CLIENT_PROGRAM]
    tunnel = await connector.acquire(key_of(pair), credential, tunnel_port=pair.tunnel[1])
    tunnel.turns.initiator, tunnel.turns.responder = SideState.ABORTING, SideState.SENDING
    connector.release(key_of(pair), tunnel)
    assert len(connector) == 0
    return tunnel


async def test_an_aborted_tunnel_is_acquired_again_when_its_peer_has_answered() -> None:
    async with running_pair(echo) as pair:
        connector, credential = pair.client.sidecar.connector, pair.client.credentials.by_program[CLIENT_PROGRAM]
        tunnel = await acquire_aborted(pair)
        assert tunnel.user is not None
        tunnel.user.on_data([memoryview(b"late")])
        tunnel.user.on_frame(FrameType.END, b"")
        tunnel.turns.initiator = tunnel.turns.responder = SideState.IDLE
        tunnel.user.on_frame(FrameType.ABORT, b"")
        await until(lambda: len(connector) == 1)
        assert await connector.acquire(key_of(pair), credential, tunnel_port=pair.tunnel[1]) is tunnel
        tunnel.close()


@pytest.mark.parametrize(
    "how", ["the deadline", "too much data", "a frame", "the peer's end", "its address goes", "the sidecar ends"]
)
async def test_an_aborted_tunnel_whose_peer_doesnt_answer_is_closed(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if how == "the deadline":
        monkeypatch.setattr("sidecar.tunnel.connector.DELIVERY_DEADLINE_S", 0.0)
    async with running_pair(echo) as pair:
        connector, tunnel = pair.client.sidecar.connector, await acquire_aborted(pair)
        if how == "too much data":
            assert tunnel.user is not None
            for _ in range(64):
                tunnel.user.on_data([memoryview(bytes(65536))])
            assert not tunnel.is_closed
            tunnel.user.on_data([memoryview(b"1")])
        elif how == "a frame":
            assert tunnel.user is not None
            tunnel.user.on_frame(FrameType.RESET, b"")
        elif how == "the peer's end":
            tunnel.lose(Loss.BROKEN, "")
        elif how == "its address goes":
            connector.forget("127.0.0.99")
            assert not tunnel.is_closed
            connector.forget("127.0.0.1")
        elif how == "the sidecar ends":
            connector.close()
        await until(lambda: tunnel.is_closed)
        assert not connector._aborted
        assert len(connector) == 0


async def test_of_aborted_tunnels_only_so_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.tunnel.connector.MAX_ABORTED", 1)
    async with running_pair(echo) as pair:
        first, second = await acquire_aborted(pair), await acquire_aborted(pair)
        assert (first.is_closed, second.is_closed) == (False, True)


async def test_an_idle_tunnel_whose_peer_no_longer_holds_is_closed_and_another_one_dialled() -> None:
    async with running_pair(echo) as pair:
        connector, key = pair.client.sidecar.connector, key_of(pair)
        credential = pair.client.credentials.by_program[CLIENT_PROGRAM]
        first = await connector.acquire(key, credential, tunnel_port=pair.tunnel[1])
        connector.release(key, first)
        first.peer = dataclasses.replace(first.peer, identity=replace(first.peer.identity, workload=CLIENT))
        second = await connector.acquire(key, credential, tunnel_port=pair.tunnel[1])
        assert first.is_closed
        assert second is not first
        second.close()


async def test_another_workload_than_the_directorys_is_refused_and_its_tunnel_closed() -> None:
    async with running_pair(echo) as pair:
        connector, key = pair.client.sidecar.connector, replace(key_of(pair), workload=CLIENT)
        credential = pair.client.credentials.by_program[CLIENT_PROGRAM]
        with pytest.raises(VerificationError) as caught:
            await connector.acquire(key, credential, tunnel_port=pair.tunnel[1])
        assert caught.value.reason == Reason.PEER_WORKLOAD_MISMATCH
        assert len(connector) == 0


@pytest.mark.parametrize("comes", [True, False], ids=["during the handshake", "never"])
async def test_a_peer_that_only_a_newer_bundle_knows_is_dialled_again_once_that_bundle_is_here(
    monkeypatch: pytest.MonkeyPatch, comes: bool
) -> None:
    """A root that is activated by force doesn't wait for handshakes from before the sidecar had acknowledged it."""
    async with running_pair(echo) as pair:
        connector, credential = pair.client.sidecar.connector, pair.client.credentials.by_program[CLIENT_PROGRAM]
        old, mint = pair.mint.bundle, Mint()
        both = replace(
            old, sequence=2, roots=(*old.roots, *mint.bundle.roots), issuers=(*old.issuers, *mint.bundle.issuers)
        )
        pair.server.trust.install(both)
        pair.server.credentials.own = mint.issue(identify(SERVER))
        pair.server.credentials.by_program = {SERVER_PROGRAM: mint.issue(identify(SERVER, SERVER_PROGRAM))}
        find_keys, begun = connector._keys_of, []

        def begin(credential: Credential) -> Keys:
            keys = find_keys(credential)
            begun.append(keys)
            if comes:
                pair.client.trust.install(both)
            return keys

        monkeypatch.setattr(connector, "_keys_of", begin)
        if comes:
            tunnel = await connector.acquire(key_of(pair), credential, tunnel_port=pair.tunnel[1])
            assert (tunnel.peer.identity.workload, len(begun)) == (SERVER, 2)
            tunnel.close()
        else:
            with pytest.raises(VerificationError) as caught:
                await connector.acquire(key_of(pair), credential, tunnel_port=pair.tunnel[1])
            assert (caught.value.reason, len(begun)) == (Reason.PEER_UNTRUSTED, 1)


async def test_what_cant_be_dialled_is_not_dialled_again_at_once() -> None:
    async with running_pair(echo) as pair:
        failures = DialFailures(memory_s=60)
        connector = Connector(
            pair.client.sidecar.connector._pool, failures, cast("Any", pair.client.trust),
            mark=0, dial_s=10, handshake_s=10,
        )  # fmt: skip
        address, credential = closed_port("127.0.0.3"), pair.client.credentials.own
        key = replace(key_of(pair), destination=(address[0], 80))
        with pytest.raises(DialError, match="refused"):
            await connector.acquire(key, credential, tunnel_port=address[1])
        with pytest.raises(DialError, match="didn't answer lately"):
            await connector.acquire(key, credential, tunnel_port=address[1])
        connector.reap(now=asyncio.get_running_loop().time() + 61)
        assert len(failures) == 0


async def test_a_failed_handshake_of_one_program_leaves_the_address_to_all_others() -> None:
    """One program's dials meet a peer that ends every handshake: its own aren't repeated at once, others' succeed."""
    async with running_pair(echo) as pair:
        connector, key = pair.client.sidecar.connector, key_of(pair)
        one = pair.client.credentials.by_program[CLIENT_PROGRAM]
        another = pair.mint.issue(identify(CLIENT, OTHER_PROGRAM))
        is_hostile, met = True, []
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)

        def meet(connection: socket.socket, source: Endpoint) -> None:
            met.append(source)
            if is_hostile:
                connection.close()
            else:
                pair.spawn(serve_tunnel(pair.server.sidecar, connection, source, pair.tunnel))

        accepting = asyncio.ensure_future(accept_forever(listener, meet))
        port = listener.getsockname()[1]
        with pytest.raises(DialError, match="handshake failed"):
            await connector.acquire(key, one, tunnel_port=port)
        with pytest.raises(DialError, match="didn't answer lately"):
            await connector.acquire(key, one, tunnel_port=port)
        assert len(met) == 1
        is_hostile = False
        other_key = replace(key, identity=str(another.identity), generation=another.generation)
        for each, credential in ((other_key, another), (replace(key, destination=("127.0.0.1", 9)), one)):
            (await connector.acquire(each, credential, tunnel_port=port)).close()
        assert len(met) == 3
        accepting.cancel()
        listener.close()


async def test_a_failed_dial_of_one_program_leaves_the_address_to_all_others() -> None:
    async with running_pair(echo) as pair:
        connector, key = pair.client.sidecar.connector, key_of(pair)
        one = pair.client.credentials.by_program[CLIENT_PROGRAM]
        another = pair.mint.issue(identify(CLIENT, OTHER_PROGRAM))
        address = closed_port("127.0.0.3")
        key = replace(key, destination=(address[0], 80))
        with pytest.raises(DialError, match="refused"):
            await connector.acquire(key, one, tunnel_port=address[1])
        with pytest.raises(DialError, match="refused"):  # Dialled, not remembered.
            await connector.acquire(key, another, tunnel_port=address[1])


async def test_idle_tunnels_are_closed_when_their_time_is_up_and_at_the_end() -> None:
    async with running_pair(echo) as pair:
        connector, key = pair.client.sidecar.connector, key_of(pair)
        credential = pair.client.credentials.by_program[CLIENT_PROGRAM]
        tunnels = [await connector.acquire(key, credential, tunnel_port=pair.tunnel[1]) for _ in range(2)]
        loop = asyncio.get_running_loop()
        connector.release(key, tunnels[0])
        connector.reap(now=loop.time() + 3600)
        assert tunnels[0].is_closed
        connector.release(key, tunnels[1])
        connector.close()
        assert tunnels[1].is_closed
        await until(lambda: not pair.tasks)
