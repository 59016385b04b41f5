"""OTLP over HTTP, in JSON, to an OpenTelemetry collector. I/O.

Source: https://opentelemetry.io/docs/specs/otlp/ (OTLP/HTTP: which answers are tried again, Retry-After, partial
success). The collector's certificate is verified; without TLS only a loopback address is spoken to.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import aiohttp
import msgspec

from ca.forwarding.courier import MAX_DELAY_S, LaterError, RefusedBatchError
from shared.model.formats.otlp import make_request
from shared.model.formats.otlp_traces import Span, make_trace_request
from shared.model.policy.decision import DecisionRecord

DEADLINE_S: Final = 10.0
MAX_ANSWER_BYTES: Final = 65_536
_LATER: Final = frozenset({429, 502, 503, 504})


class Collector:
    """One address of a collector.

    Arguments:
        url: with its path, such as ``https://collector.example:4318/v1/logs``.
        headers: sent with each request; they may hold a token.
        context: verifies the collector.
    """

    def __init__(self, url: str, *, headers: Mapping[str, str], context: ssl.SSLContext) -> None:
        self._url = url
        self._headers = headers
        self._context = context
        self._session: aiohttp.ClientSession | None = None

    async def post(self, request: Mapping[str, Any], *, rejected: str) -> int:
        """Send a request; return how many of its records the collector rejected.

        Arguments:
            rejected: the field of ``partialSuccess`` that says so.

        Raises:
            LaterError, RefusedBatchError.
        """
        try:
            data = msgspec.json.encode(request)
        except (TypeError, ValueError) as error:  # A name that isn't UTF-8, say: it would hold up all that follows.
            raise RefusedBatchError(f"it can't be written as JSON: {error}") from error
        session = self._open()
        try:
            async with session.post(
                self._url,
                data=data,
                headers={"Content-Type": "application/json", **self._headers},
                ssl=self._context,
                allow_redirects=False,
            ) as response:
                status, wish = response.status, response.headers.get("Retry-After", "")
                body = await response.content.read(MAX_ANSWER_BYTES)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:  # ValueError: an impossible name.
            raise LaterError(f"the collector can't be reached: {str(error) or type(error).__name__}") from error
        if status in _LATER:
            raise LaterError(f"the collector answered {status}", after_s=_read_delay(wish))
        if status // 100 != 2:
            raise RefusedBatchError(f"the collector answered {status}: {body[:200].decode(errors='replace')}")
        return _read_rejected(body, rejected)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=DEADLINE_S), connector=aiohttp.TCPConnector(limit=1)
            )
        return self._session


class OtlpStore:
    """One collector of decisions.

    Arguments:
        instance: of this CA.
        every: one of so many allowed connections is sent.
    """

    name = "otlp"

    def __init__(
        self, collector: Collector, *, instance: str, every: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._collector = collector
        self._instance = instance
        self._every = every
        self._clock = clock

    async def send(self, records: Sequence[DecisionRecord]) -> int:
        """Send a batch; return how many records the collector rejected. Raises as ``Destination`` says."""
        request = make_request(records, instance=self._instance, observed=self._clock(), every=self._every)
        return min(await self._collector.post(request, rejected="rejectedLogRecords"), len(records))

    async def close(self) -> None:
        """Close the connections."""
        await self._collector.close()


class OtlpTraceStore:
    """One collector of spans.

    Arguments:
        instance: of this CA.
    """

    name = "otlp_traces"

    def __init__(self, collector: Collector, *, instance: str) -> None:
        self._collector = collector
        self._instance = instance

    async def send(self, records: Sequence[Span]) -> int:
        """Send a batch; return how many spans the collector rejected. Raises as ``Destination`` says."""
        request = make_trace_request(records, instance=self._instance)
        return min(await self._collector.post(request, rejected="rejectedSpans"), len(records))

    async def close(self) -> None:
        """Close the connections."""
        await self._collector.close()


def _read_delay(text: str) -> float:
    return min(float(text), MAX_DELAY_S) if text.isascii() and text.isdigit() else 0.0


def _read_rejected(body: bytes, field: str) -> int:
    """Return this field of ``partialSuccess``; what can't be read rejects nothing."""
    try:
        answer = msgspec.json.decode(body) if body else {}
        return max(0, int((answer.get("partialSuccess") or {}).get(field) or 0))
    except (msgspec.DecodeError, ValueError, AttributeError, TypeError):
        return 0
