"""``python -m ca``: run the CA until SIGTERM or SIGINT. Logs are JSON lines on standard error.

``python -m ca restore`` and ``rewrap`` work on the store of a CA that doesn't run.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

import structlog
import uvloop
from structlog.tracebacks import ExceptionDictTransformer

from ca.runtime.data_directory import HeldDirectory
from ca.runtime.offline import run_restore, run_rewrap
from ca.runtime.run import run_ca
from ca.settings.configuration import Configuration
from ca.settings.settings import parse_arguments
from shared.model.errors import TouchmarkError
from shared.model.version import VERSION
from shared.runtime.interpreter import keep_large_blocks_apart, quicken_enumerations, spare_what_lives

_OFFLINE: Final = {"restore": run_restore, "rewrap": run_rewrap}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the CA and return its exit code: that of the error's kind, 0 after a requested end."""
    os.umask(0o077)
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if given[:1] and (verb := _OFFLINE.get(given[0])):
            _configure_logs("warning")
            verb(given[1:])
            return 0
        configuration = parse_arguments(given)
        _configure_logs(configuration.log_level)
        keep_large_blocks_apart()
        if configuration.kubernetes:
            # The client library takes a second of computing, on a busy machine many: it is loaded before the event
            # loop runs, and while another CA may still have the data directory.
            import_module("ca.runtime.cluster")
        uvloop.run(_run(configuration))
    except TouchmarkError as error:
        print(f"error[{error.code}]: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  hint: {error.hint}", file=sys.stderr)
        return error.exit_code
    return 0


async def _run(configuration: Configuration) -> None:
    log = structlog.get_logger("touchmark.ca")
    quicken_enumerations()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with run_ca(configuration) as ca:
        # A collection of what lives from the start on, mostly modules, kept every stream waiting for 0.1 s.
        spare_what_lives()
        log.info(
            "ca_started",
            version=VERSION,
            listen=ca.listen,
            admin_socket=str(configuration.admin_socket),
            trust_domain=configuration.trust_domain,
            root_pin=ca.authorities.root_pin,
            kek_generated=ca.kek.generated_at is not None,
        )
        await _wait(stop, ca.directory)
        log.info("ca_stopping")
    log.info("ca_stopped")


async def _wait(stop: asyncio.Event, directory: HeldDirectory | None) -> None:
    """Wait for a signal. Raises ``UnavailableError`` when the data directory is gone."""
    if directory is None:
        await stop.wait()
        return
    waiting = [asyncio.ensure_future(stop.wait()), asyncio.ensure_future(directory.watch())]
    try:
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in waiting:
            task.cancel()


def _configure_logs(level: str) -> None:
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            # Without local variables: those hold tokens and keys.
            structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


if __name__ == "__main__":
    sys.exit(main())
