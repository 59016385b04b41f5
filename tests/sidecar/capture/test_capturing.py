"""The doors: an address that can't be had is named, nothing stays open, and nothing that was said is lost."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from typing import Any, cast

import pytest

from shared.model.errors import MachineError
from shared.model.policy.reasons import Reason
from shared.runtime.tasks import Tasks
from sidecar.capture.accept_loop import open_listener
from sidecar.capture.captured import Captured
from sidecar.capture.capturing import Capturing, Door, Entrance, Stories, _guard, close_doors, may_be_remote, open_doors
from sidecar.parts import Sidecar
from sidecar.rooms import make_rooms
from sidecar.settings.configuration import Configuration, OutboundListener
from sidecar.sockets.address import Endpoint
from sidecar.sockets.ending import close_after_delivery
from sidecar.tls.handshake_gate import HandshakeGate
from tests.free_ports import free_port
from tests.sidecar.little_ca import until
from tests.sidecar.pair import running_pair
from tests.sidecar.test_outbound import echo


def outbound(*ports: int) -> Configuration:
    listeners = (OutboundListener(listen=("127.0.0.1", port), destination=("127.0.0.2", 1)) for port in ports)
    return Configuration(outbound=tuple(listeners))


def test_a_taken_port_is_named_and_the_others_are_closed_again() -> None:
    free = free_port()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(MachineError, match=str(taken.getsockname()[1])):
            open_doors(outbound(free, taken.getsockname()[1]))
        doors = open_doors(outbound(free))
        assert [door.entrance for door in doors] == [Entrance.EXPLICIT_OUT]
        close_doors(doors)


async def test_no_class_of_connections_takes_anothers_places() -> None:
    """Strangers fill their room and open handshakes fill theirs: the pod's own connections begin all the same."""
    async with running_pair(echo) as pair:
        side, begun, may_end = pair.server, list[str](), asyncio.Event()
        sidecar = replace(side.sidecar, rooms=make_rooms(2), handshakes=HandshakeGate(2))

        async def carry_outbound(_: Sidecar, captured: Captured) -> None:
            with captured.connection:
                begun.append("outbound")
                await may_end.wait()

        async def carry_plaintext(_: Sidecar, captured: Captured, __: Endpoint) -> None:
            with captured.connection:
                begun.append("stranger")
                await may_end.wait()

        async def serve(here: Sidecar, connection: socket.socket, source: Endpoint, local: Endpoint) -> None:
            begun.append("tunnel")
            with connection, here.handshakes.enter(source[0]):
                await may_end.wait()

        entrances = (Entrance.EXPLICIT_IN, Entrance.TUNNEL, Entrance.EXPLICIT_OUT)
        doors = [
            Door(entrance=each, listener=open_listener(("127.0.0.1", 0)), fixed=("127.0.0.9", 1)) for each in entrances
        ]
        addresses = [door.listener.getsockname() for door in doors]
        stories = Stories(
            carry_outbound=carry_outbound,
            carry_plaintext=carry_plaintext,
            serve_foreign=carry_plaintext,
            serve_tunnel=serve,
        )
        tasks, tunnels = Tasks(_fail), Tasks(_fail)
        capturing = Capturing(sidecar, doors, stories, tasks=tasks, tunnels=tunnels, events=cast("Any", None))
        capturing.start()
        dialled = []
        try:
            for address, name, refused in zip(addresses, ("stranger", "tunnel", "outbound"), (1, 2, 3), strict=True):
                for count in (1, 2):
                    dialled.append(socket.create_connection(address))
                    await until(lambda name=name, count=count: begun.count(name) == count)  # type: ignore[misc]
                dialled.append(socket.create_connection(address))
                await until(lambda refused=refused: len(side.records) == refused)  # type: ignore[misc]
            assert [record.reason for record in side.records] == [Reason.OVERLOADED] * 3
            assert sorted(begun) == ["outbound"] * 2 + ["stranger"] * 2 + ["tunnel"] * 2
            may_end.set()
            await until(lambda: len(tasks) + len(tunnels) == 0)
            assert (len(sidecar.rooms.outbound), len(sidecar.rooms.strangers), len(sidecar.handshakes)) == (0, 0, 0)
        finally:
            may_end.set()
            capturing.close()
            for each in dialled:
                each.close()


async def test_at_a_wildcard_a_client_has_the_address_at_which_it_arrived() -> None:
    """Attestation asks for the client's socket by it, and by loopback nobody comes from outside."""
    async with running_pair(echo) as pair:
        carried: list[Captured] = []

        async def carry_outbound(_: Sidecar, captured: Captured) -> None:
            carried.append(captured)
            captured.connection.close()

        stories = Stories(carry_outbound=carry_outbound, carry_plaintext=_none, serve_foreign=_none, serve_tunnel=_none)
        door = Door(entrance=Entrance.EXPLICIT_OUT, listener=open_listener(("0.0.0.0", 0)), fixed=("198.18.0.9", 5432))
        port = door.listener.getsockname()[1]
        tasks = Tasks(_fail)
        capturing = Capturing(
            pair.client.sidecar, [door], stories, tasks=tasks, tunnels=tasks, events=cast("Any", None)
        )
        capturing.start()
        try:
            with socket.create_connection(("127.0.0.3", port)):
                await until(lambda: carried)
        finally:
            capturing.close()
        assert carried[0].app_destination == ("127.0.0.3", port)
        assert carried[0].destination == ("198.18.0.9", 5432)
        assert not carried[0].may_be_remote


@pytest.mark.parametrize(
    ("source", "local", "expected"),
    [
        ("127.0.0.1", "127.0.0.1", False),
        ("::1", "::1", False),
        ("198.18.0.9", "127.0.0.1", True),
        ("198.18.0.2", "198.18.0.2", True),
        ("127.0.0.1", "198.18.0.2", True),
    ],
)
def test_only_between_loopback_addresses_a_client_is_surely_of_the_pod(source: str, local: str, expected: bool) -> None:
    assert may_be_remote((source, 40000), (local, 5432)) is expected


async def _none(*_: object) -> None:
    raise AssertionError("no such story begins here")


def _fail(name: str, error: BaseException) -> None:
    raise AssertionError(f"{name} failed") from error


async def test_what_a_story_has_left_to_be_delivered_isnt_reset_when_it_ends() -> None:
    """A tunnel that says CLOSING, or RESET, is closed once its peer has read that."""
    near, far = await _connect()
    data = b"x" * 4_000_000

    async def story() -> None:
        await asyncio.get_running_loop().sock_sendall(near, b"first")
        sent = 0
        with pytest.raises(BlockingIOError):
            while True:
                sent += near.send(data)
        told.append(sent)
        close_after_delivery(asyncio.get_running_loop(), near)

    told: list[int] = []
    await _guard(near, story())
    received = bytearray()
    while more := await asyncio.get_running_loop().sock_recv(far, 65536):
        received += more
    assert len(received) == told[0] + 5
    far.close()
    await until(lambda: near.fileno() < 0)


async def test_what_a_failed_story_leaves_open_is_reset() -> None:
    near, far = await _connect()

    async def story() -> None:
        raise RuntimeError("ordered by the test")

    with pytest.raises(RuntimeError, match="ordered"):
        await _guard(near, story())
    with pytest.raises(ConnectionResetError):
        await asyncio.get_running_loop().sock_recv(far, 1)
    assert near.fileno() < 0
    far.close()


async def _connect() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = socket.create_connection(listener.getsockname())
        near, _ = listener.accept()
    near.setblocking(False)
    far.setblocking(False)
    return near, far
