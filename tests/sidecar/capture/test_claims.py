"""Two live connections never claim one application's address and destination: neither is believed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from shared.model.policy.reasons import Reason
from sidecar.attest.facts import AttestationError
from sidecar.capture.accept_loop import AcceptLoop, open_listener
from sidecar.capture.claims import Claims
from sidecar.sockets.address import Endpoint

SOURCE, DESTINATION = ("198.18.0.1", 40000), ("198.18.0.2", 5432)


class Accepting:
    """A listener, what it accepted, and the claims on it."""

    def __init__(self) -> None:
        listener = open_listener(("127.0.0.1", 0))
        self.address = listener.getsockname()
        self.accepted: list[socket.socket] = []
        self.loop = AcceptLoop(listener, self.take, on_pause=lambda *_: None)
        self.claims = Claims()

    def take(self, connection: socket.socket, _: Endpoint) -> None:
        self.accepted.append(connection)

    async def connect(self) -> tuple[socket.socket, socket.socket]:
        client = socket.create_connection(self.address)
        async with asyncio.timeout(120):
            while not self.accepted:
                await asyncio.sleep(0)
        return client, self.accepted.pop()


@pytest.fixture
async def accepting() -> AsyncIterator[Accepting]:
    made = Accepting()
    made.loop.start()
    yield made
    made.loop.close()
    for connection in made.accepted:
        connection.close()


async def test_a_second_claim_refuses_both_while_the_first_lives(accepting: Accepting) -> None:
    told: list[AttestationError] = []
    (one, first), (two, second), (three, third) = [await accepting.connect() for _ in range(3)]
    with one, two, three, first, second, third:
        claim = accepting.claims.enter(first, SOURCE, DESTINATION)
        claim.on_contest(told.append)
        claim.check()
        elsewhere = accepting.claims.enter(third, SOURCE, ("198.18.0.2", 5433))
        rival = accepting.claims.enter(second, SOURCE, DESTINATION)
        assert [error.reason for error in told] == [Reason.SOCKET_AMBIGUOUS]
        for each in (claim, rival):
            with pytest.raises(AttestationError, match="two connections claim"):
                each.check()
        elsewhere.check()
        claim.leave()
        with pytest.raises(AttestationError):
            rival.check()
        for each in (rival, elsewhere):
            each.leave()
        alone = accepting.claims.enter(first, SOURCE, DESTINATION)
        alone.check()
        alone.leave()


async def test_a_dead_connection_is_no_rival(accepting: Accepting) -> None:
    """A program that connects again from the port of a connection that was reset is believed."""
    (one, first), (two, second) = [await accepting.connect() for _ in range(2)]
    with two, first, second:
        dead = accepting.claims.enter(first, SOURCE, DESTINATION)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        one.close()
        alive = accepting.claims.enter(second, SOURCE, DESTINATION)
        alive.check()
        with pytest.raises(AttestationError, match="was reset before") as refused:
            dead.check()  # The socket that is found at its address is the second one's.
        assert refused.value.reason is Reason.PROCESS_VANISHED
        dead.leave()
        alive.leave()
