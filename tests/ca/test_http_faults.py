"""The HTTP server's log (``ca.http_faults``): malformed requests are a line now and then, our own faults whole."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiohttp.http_exceptions import BadStatusLine, InvalidHeader
from structlog.typing import Processor

from ca import http_faults
from ca.http_faults import LINE_INTERVAL_S, make_server_logger
from tests.ca.running import make_client_context, running_ca

SECRET = b"Bearer of-somebody"


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[MutableMapping[str, Any]]:
    """What is logged from now on."""
    found: list[MutableMapping[str, Any]] = []

    def collect(_: object, __: str, event: MutableMapping[str, Any]) -> str:
        found.append(dict(event))
        raise structlog.DropEvent

    processors: list[Processor] = [structlog.processors.add_log_level, collect]
    monkeypatch.setattr(http_faults, "_log", structlog.wrap_logger(structlog.PrintLogger(), processors=processors))
    return found


def fail(logger: logging.Logger, error: Exception, source: str = "198.18.0.1") -> None:
    logger.error("Error handling request from %s", source, exc_info=error)


def test_malformed_requests_are_one_line_in_a_while_without_a_byte_of_theirs(
    lines: list[MutableMapping[str, Any]],
) -> None:
    now = 0.0
    logger = make_server_logger(lambda: now)
    for _ in range(1_000):
        fail(logger, InvalidHeader(SECRET))
    now = LINE_INTERVAL_S
    fail(logger, BadStatusLine(SECRET.decode()), "\x1b[2J" * 1_000)
    first, second = lines
    assert first == {
        "event": "request_malformed", "level": "warning", "source": "198.18.0.1", "kind": "InvalidHeader", "unsaid": 0
    }  # fmt: skip
    assert (second["kind"], second["unsaid"], len(second["source"])) == ("BadStatusLine", 999, 100)
    assert SECRET.decode() not in json.dumps(lines)


def test_a_fault_of_ours_is_logged_each_time_with_its_traceback(lines: list[MutableMapping[str, Any]]) -> None:
    logger = make_server_logger(lambda: 0.0)
    errors = [ValueError("one"), ValueError("two")]
    for error in errors:
        fail(logger, error)
    assert [line["event"] for line in lines] == ["http_failed", "http_failed"]
    assert [line["exc_info"] for line in lines] == errors
    logger.debug("the library's own talk")
    logger.warning("a word without an error")
    assert [line["message"] for line in lines[2:]] == ["a word without an error"]


async def test_what_strangers_send_to_the_cas_ports_leaves_no_traceback(
    tmp_path: Path, lines: list[MutableMapping[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    async with running_ca(tmp_path) as services:
        host, _, port = services.listen.rpartition(":")
        context, path = make_client_context(services), str(services.configuration.admin_socket)
        requests = [
            b"GET / HTTP/1.1\r\nHost: ca\r\nAuthorization " + SECRET + b"\r\n\r\n",
            b"GET / HTTP/9.9.9\r\n\r\n",
            b"POST /v1/sidecars HTTP/1.1\r\nHost: ca\r\nTransfer-Encoding: chunked\r\n\r\nnone\r\n",
        ]
        for is_admin in (False, True):
            for request in requests:
                reader, writer = await (
                    asyncio.open_unix_connection(path)
                    if is_admin
                    else asyncio.open_connection(host, int(port), ssl=context)
                )
                writer.write(request)
                async with asyncio.timeout(60):
                    assert (await reader.readline()).split()[1] in (b"400", b"404", b"405")
                writer.transport.abort()
    assert {line["event"] for line in lines} == {"request_malformed"}
    assert not [record for record in caplog.records if record.exc_info]
