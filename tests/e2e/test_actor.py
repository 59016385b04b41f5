"""What the tests' programs do themselves mustn't stop them where a debugger traces them."""

from __future__ import annotations

import errno
import select
import signal
import socket
import struct

import pytest

from tests.e2e.harness import actor


def test_sending_after_connect_was_told_of_a_reset_makes_no_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A traced process stops at a signal that it ignores as well, and its tracer here lets none go on."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as one:
        one.setblocking(False)
        assert one.connect_ex(server.getsockname()) in (0, errno.EINPROGRESS)
        accepted, _ = server.accept()
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        accepted.close()
        assert select.select([one], [], [], 30)[0]
        # As connect(2) with a timeout asks when it looks late.
        assert one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET
        monkeypatch.setitem(actor._sockets, "one", one)
        monkeypatch.setattr(actor, "_reset", {"one"})
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})  # Blocked, an ignored one is kept.
        try:
            assert actor.send("one", "text") == "EPIPE"
            assert signal.SIGPIPE not in signal.sigpending()
        finally:
            signal.sigtimedwait({signal.SIGPIPE}, 0)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        assert actor.receive_rest("one") == "<ECONNRESET>"
