"""An HTTP probe, as the kubelet makes it: GET with the probe's headers, redirects followed on the same host only.

Source: kubernetes/pkg/probe/http: 200 to 399 is success; a redirect to another host ends there and is success; the
eleventh redirect is failure; certificates aren't verified; the body is read up to 10 KiB. HTTP/1.1 by h11.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from functools import cache
from urllib.parse import urljoin, urlsplit

import h11

from shared.model.kubernetes.contract import ProbeTarget
from shared.model.version import VERSION
from sidecar.probing.outcome import Outcome, fail
from sidecar.sockets.dial import dial

MAX_REDIRECTS = 10
_MAX_BODY_BYTES = 10 * 1024
_MAX_HEADER_BYTES = 64 * 1024
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# They would say something of a body that a GET hasn't.
_DROPPED = frozenset({"content-length", "transfer-encoding", "connection"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """One URL on the way: where to connect and what to ask for."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"


async def probe_http(target: ProbeTarget, address: str, *, mark: int = 0) -> Outcome:
    """Ask, and follow redirects; the caller sets the deadline.

    Arguments:
        address: where to connect, whatever the path's redirects say.

    Raises:
        DialError: nothing answers.
    """
    place = _Place(scheme=target.scheme.lower(), host=address, port=target.port, path=target.path)
    named = next((value for name, value in target.headers if name.lower() == "host"), "")
    authority = named or place.authority
    for _ in range(MAX_REDIRECTS + 1):
        try:
            status, location, body = await _ask(place, target, authority, address, mark=mark)
        except (h11.ProtocolError, ssl.SSLError, ConnectionError, EOFError) as error:
            return fail(f"GET {place.url}: {str(error) or type(error).__name__}")
        if status not in _REDIRECTS or not location:
            return Outcome(status=status, body=body)
        try:
            following = _follow(place, location)
        except ValueError as error:
            return fail(f"GET {place.url}: a redirect to what is no URL: {error}")
        if following.host != address:
            return Outcome(status=status, body=body)  # To somebody else: so far, so good, says the kubelet.
        # As Go's client does: the Host header that was asked for holds on as long as redirects are relative.
        is_relative = not urlsplit(location).netloc
        place, authority = following, authority if is_relative else following.authority
    return fail(f"GET {place.url}: stopped after {MAX_REDIRECTS} redirects")


def _follow(place: _Place, location: str) -> _Place:
    parts = urlsplit(urljoin(place.url, location))
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{location[:120]!r}")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return _Place(scheme=parts.scheme, host=parts.hostname, port=port, path=path)


async def _ask(
    place: _Place, target: ProbeTarget, authority: str, address: str, *, mark: int
) -> tuple[int, str, bytes]:
    """Send one request and return status, Location and the body's first 10 KiB."""
    loop = asyncio.get_running_loop()
    # The request is made first: what can't be sent isn't dialled for.
    exchange = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEADER_BYTES)
    request = h11.Request(method="GET", target=place.path, headers=_make_headers(target, authority))
    data = exchange.send(request) + exchange.send(h11.EndOfMessage())
    connection = await dial(loop, (address, place.port), mark=mark, timeout_s=target.timeout_s)
    try:
        reader, writer = await asyncio.open_connection(
            sock=connection,
            ssl=_make_context() if place.scheme == "https" else None,
            server_hostname=place.host if place.scheme == "https" else None,
        )
    except BaseException:
        connection.close()
        raise
    try:
        writer.write(data)
        return await _read_answer(exchange, reader)
    finally:
        writer.transport.abort()


async def _read_answer(exchange: h11.Connection, reader: asyncio.StreamReader) -> tuple[int, str, bytes]:
    status, location, body = 0, "", bytearray()
    while True:
        event = exchange.next_event()
        if event is h11.NEED_DATA:
            data = await reader.read(65536)
            if not data and not status:
                raise EOFError("the connection ended without an answer")
            exchange.receive_data(data)
        elif isinstance(event, h11.Response):
            status = event.status_code
            location = next((value.decode("latin-1") for name, value in event.headers if name == b"location"), "")
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) >= _MAX_BODY_BYTES:
                return status, location, bytes(body[:_MAX_BODY_BYTES])
        elif isinstance(event, h11.EndOfMessage):
            return status, location, bytes(body)
        elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
            raise EOFError("the connection ended without an answer")


def _make_headers(target: ProbeTarget, authority: str) -> list[tuple[str, str]]:
    headers = [("Host", authority)]
    for name, value in (("User-Agent", f"kube-probe/touchmark-{VERSION}"), ("Accept", "*/*")):
        if not any(given.lower() == name.lower() for given, _ in target.headers):
            headers.append((name, value))
    for name, value in target.headers:
        if name.lower() in ("user-agent", "accept") and not value:
            continue  # The kubelet's way to send none.
        if name.lower() != "host" and name.lower() not in _DROPPED:
            headers.append((name, value))
    return [*headers, ("Connection", "close")]


@cache
def _make_context() -> ssl.SSLContext:
    """Make a context that verifies nothing, as the kubelet's: the probe only asks whether the server lives."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # Else a server's small key alone would fail its probe.
    return context
