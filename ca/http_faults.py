"""What the HTTP server logs of requests that fail: a stranger's in a short line, ours with a traceback. I/O: the log.

Belongs here: whose fault it was, and how often it is said. Doesn't: the answer, which is the server's own.

Of what a stranger sent no byte is written: it may hold somebody's token, and is as long as it likes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

import structlog
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web import RequestPayloadError

# Of all malformed requests at one server; how many were left out stands in the next line.
LINE_INTERVAL_S: Final = 10.0

_log = structlog.get_logger("touchmark.ca")


def make_server_logger(clock: Callable[[], float] = time.monotonic) -> logging.Logger:
    """Return what an ``aiohttp.web.AppRunner`` logs with.

    Arguments:
        clock: seconds, from any beginning on.
    """
    # The library's own logger would write tracebacks to standard error. The tree of loggers would keep each server's.
    logger = logging.Logger("touchmark.ca.http", logging.WARNING)  # noqa: LOG001
    logger.addHandler(_Recorder(clock))
    return logger


class _Recorder(logging.Handler):
    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock
        self._next = float("-inf")
        self._unsaid = 0

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError | RequestPayloadError):
            self._note_malformed(error, record.args)
        else:
            _log.error("http_failed", message=record.getMessage()[:300], exc_info=error)

    def _note_malformed(self, error: Exception, arguments: object) -> None:
        now = self._clock()
        if now < self._next:
            self._unsaid += 1
            return
        source = str(arguments[0])[:100] if isinstance(arguments, tuple) and arguments else ""
        _log.warning("request_malformed", source=source, kind=type(error).__name__, unsaid=self._unsaid)
        self._next, self._unsaid = now + LINE_INTERVAL_S, 0
