"""The framing of one forwarded port: ``v4.channel.k8s.io``, our end of it. Pure.

Source: ``k8s.io/kubelet/pkg/cri/streaming/portforward/websocket.go`` and ``k8s.io/apimachinery/pkg/util/httpstream/
wsstream``: each binary message begins with its channel. A forwarded port has two: data (0, both ways) and error (1, the
server's alone, text). The first message on each is the port, 16 bits little endian. Neither end can half-close: the
connection's end is the WebSocket's.
"""

from __future__ import annotations

from typing import Final

from cli.cluster.faults import NoCAPodError
from shared.model.errors import ProtocolError

PROTOCOL: Final = "v4.channel.k8s.io"
MAX_MESSAGE_BYTES: Final = 1024 * 1024  # The kubelet's are 32 KiB; it may change its mind.
DATA: Final = 0
ERROR: Final = 1


class ForwardedPort:
    """Turns messages into the port's bytes, and bytes into messages.

    Arguments:
        port: 1 to 65535, as it was asked for.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._begun = [False, False]

    def receive(self, message: bytes) -> bytes:
        """Return the bytes that came from the port; empty for a message that carries none.

        Raises:
            NoCAPodError: the error channel says why the port can't be reached.
            ProtocolError: this is no such message.
        """
        if not message or message[0] not in (DATA, ERROR):
            raise ProtocolError(f"a message of no channel of a forwarded port: {message[:16]!r}")
        channel, content = message[0], message[1:]
        if not self._begun[channel]:
            if content != self._port.to_bytes(2, "little"):
                raise ProtocolError(f"channel {channel} begins with {content[:16]!r} instead of port {self._port}")
            self._begun[channel] = True
            return b""
        if channel == ERROR and content:
            raise NoCAPodError(
                f"the port can't be forwarded: {content[:500].decode(errors='replace').strip()}",
                hint="check with `kubectl logs` that the CA in this pod runs",
            )
        return content if channel == DATA else b""

    @staticmethod
    def send(data: bytes) -> bytes:
        """Return the message that carries bytes to the port."""
        return bytes((DATA,)) + data
