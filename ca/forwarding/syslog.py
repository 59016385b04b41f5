"""CEF over syslog over TLS (RFC 5424 messages, RFC 5425 frames). I/O.

The server's certificate and name are verified. Syslog acknowledges nothing: what was written when a connection breaks
may be lost without anybody knowing; a batch whose writing failed is sent again, so that some of it may come twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ssl
from collections.abc import Sequence
from typing import Final

from ca.forwarding.courier import LaterError
from shared.model.formats.cef import write_line
from shared.model.formats.endpoint import Gravity, weigh
from shared.model.policy.decision import DecisionRecord

DEADLINE_S: Final = 10.0
_FACILITY: Final = 10  # Security and authorisation.
_SEVERITIES: Final = {Gravity.ALLOWED: 6, Gravity.WOULD_DENY: 5, Gravity.DENIED: 4}  # Informational, notice, warning.


class SyslogStore:
    """One syslog server.

    Arguments:
        context: verifies the server.
        hostname: of this CA, in each message.
    """

    name = "syslog"

    def __init__(self, host: str, port: int, *, context: ssl.SSLContext, hostname: str) -> None:
        self._host = host
        self._port = port
        self._context = context
        self._hostname = "".join(each if 33 <= ord(each) <= 126 else "-" for each in hostname)[:255] or "-"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, records: Sequence[DecisionRecord]) -> int:
        """Write a batch; return 0. Raises ``LaterError``."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                writer = await self._open()
                writer.write(b"".join(frame(record, hostname=self._hostname) for record in records))
                await writer.drain()
        except (OSError, TimeoutError, ValueError) as error:  # ssl.SSLError; an impossible name.
            await self.close()
            raise LaterError(f"the syslog server can't be reached: {str(error) or type(error).__name__}") from error
        return 0

    async def close(self) -> None:
        """Close the connection; the server isn't waited for."""
        if self._streams is not None:
            _, writer = self._streams
            self._streams = None
            writer.transport.abort()
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(1.0):
                    await writer.wait_closed()

    async def _open(self) -> asyncio.StreamWriter:
        if self._streams is not None:
            reader, writer = self._streams
            if not reader.at_eof() and not writer.is_closing():
                return writer
            await self.close()
        self._streams = await asyncio.open_connection(
            self._host, self._port, ssl=self._context, server_hostname=self._host
        )
        return self._streams[1]


def frame(record: DecisionRecord, *, hostname: str) -> bytes:
    """Return one message as RFC 5425, section 4.3, frames it."""
    priority = _FACILITY * 8 + _SEVERITIES[weigh(record)]
    when = datetime.datetime.fromtimestamp(record.time, datetime.UTC).isoformat(timespec="milliseconds")
    stamp = when.replace("+00:00", "Z")
    message = f"<{priority}>1 {stamp} {hostname} touchmark-ca - decision - {write_line(record)}".encode()
    return f"{len(message)} ".encode() + message
