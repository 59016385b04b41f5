"""Which sockets listen on a port, by lists that are made and by lists that serve for a moment."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from shared.model.policy.reasons import Reason
from sidecar.attest.facts import AttestationError
from sidecar.attest.netlink import listeners as module
from sidecar.attest.netlink.kernel_sockets import KernelSockets
from sidecar.attest.netlink.listeners import LISTED_AGE_S, Listeners
from sidecar.attest.netlink.sock_diag import KernelSocket, NetlinkError

pytestmark = pytest.mark.usefixtures("engine")


class Counted(KernelSockets):
    """Counts how often it is asked."""

    asked = 0

    def listeners(self, port: int) -> list[KernelSocket]:
        self.asked += 1
        return super().listeners(port)


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def kernel() -> Iterator[Counted]:
    made = Counted()
    yield made
    made.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=clock))
    return clock


@pytest.fixture
def port() -> Iterator[int]:
    """A port for listeners that share it; bound at every address, so that nobody else gets it meanwhile."""
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("0.0.0.0", 0))
        yield int(reserved.getsockname()[1])


def listen(address: str, port: int) -> socket.socket:
    return socket.create_server((address, port), reuse_port=True)


def inodes(found: list[KernelSocket]) -> set[int]:
    return {each.inode for each in found}


def test_a_list_serves_for_fifty_milliseconds_unless_it_is_asked_for_now(
    kernel: Counted, clock: Clock, port: int
) -> None:
    listeners = Listeners(kernel)
    with listen("127.0.0.1", port):
        alone = listeners.list_recent("127.0.0.1", port)
        with listen("0.0.0.0", port):
            clock.now += LISTED_AGE_S - 0.001
            assert listeners.list_recent("127.0.0.1", port) == alone, "the list of before"
            assert kernel.asked == 1
            both = listeners.list_now("127.0.0.1", port)
            assert inodes(both) > inodes(alone)
            assert listeners.list_recent("127.0.0.1", port) == both, "what was asked for now serves from now on"
            assert kernel.asked == 2
        clock.now += LISTED_AGE_S
        assert inodes(listeners.list_recent("127.0.0.1", port)) == inodes(alone)
        assert kernel.asked == 3


def test_where_the_earlier_list_has_nobody_the_kernel_is_asked(kernel: Counted, clock: Clock, port: int) -> None:
    listeners = Listeners(kernel)
    with listen("127.0.0.1", port):
        listeners.list_recent("127.0.0.1", port)
        with pytest.raises(AttestationError) as nobody:
            listeners.list_recent("127.0.0.2", port)
        assert nobody.value.reason is Reason.NO_LISTENER
        listeners.list_recent("127.0.0.1", port)
        with listen("127.0.0.2", port) as other:
            assert inodes(listeners.list_recent("127.0.0.2", port)) == {os.fstat(other.fileno()).st_ino}
    assert kernel.asked == 4
    with pytest.raises(AttestationError):
        listeners.list_now("127.0.0.1", port)
    with pytest.raises(AttestationError):
        listeners.list_recent("127.0.0.1", port)
    assert kernel.asked == 6


def test_the_sidecars_own_listener_is_left_out_of_earlier_lists_too(kernel: Counted, clock: Clock, port: int) -> None:
    listeners = Listeners(kernel)
    with listen("127.0.0.1", port):
        [own] = listeners.list_recent("127.0.0.1", port)
        listeners.note_own(own)
        for listing in (listeners.list_recent, listeners.list_now):
            with pytest.raises(AttestationError) as caught:
                listing("127.0.0.1", port)
            assert caught.value.reason is Reason.NO_LISTENER


def test_a_list_that_fails_or_is_too_long_leaves_no_earlier_one(
    kernel: Counted, clock: Clock, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    listeners = Listeners(kernel)
    with listen("127.0.0.1", port):
        [found] = listeners.list_now("127.0.0.1", port)
        monkeypatch.setattr(kernel, "listeners", lambda _: [found] * 2_000)
        with pytest.raises(AttestationError) as caught:
            listeners.list_now("127.0.0.1", port)
        assert caught.value.reason is Reason.OVERLOADED

        def fail(_: int) -> list[KernelSocket]:
            raise NetlinkError("no answer")

        monkeypatch.setattr(kernel, "listeners", fail)
        with pytest.raises(AttestationError) as caught:
            listeners.list_recent("127.0.0.1", port)
        assert caught.value.reason is Reason.NO_LISTENER
        with pytest.raises(AttestationError):
            listeners.list_now("no address", port)
