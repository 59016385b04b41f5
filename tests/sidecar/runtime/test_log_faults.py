"""What happens to the sidecar's own output is said: in events, as soon as these can be written."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from shared.runtime.sinks import LineSink
from sidecar.events import Events
from sidecar.runtime.log_faults import Watched, tell
from tests.free_ports import free_port
from tests.sidecar.little_ca import LittleCA, until
from tests.sidecar.runtime.whole_sidecar import ROOT, SERVER, Running, run_client, sidecar


async def test_faults_are_told_when_they_begin_and_end_and_lost_lines_by_number() -> None:
    reading, writing = os.pipe()
    events_sink = LineSink(writing)
    full = os.open("/dev/full", os.O_WRONLY)  # full(4): every write is ENOSPC.
    try:
        sink = LineSink(full, max_bytes=4)
        watched, events = Watched(name="decisions", sink=sink), Events(events_sink)
        tell(watched, events)
        sink.write(b"1\n2\n")
        await until(lambda: sink.fault)
        for _ in range(2):
            sink.write(b"3\n")
            tell(watched, events)
        tell(watched, events)
        null = os.open("/dev/null", os.O_WRONLY)
        os.dup2(null, full)
        os.close(null)
        await until(lambda: not sink.fault)
        tell(watched, events)
        assert sink.close(timeout_s=30)
    finally:
        os.close(full)
    events_sink.close(timeout_s=30)
    os.close(writing)
    with os.fdopen(reading) as file:
        told = [json.loads(line) for line in file]
    assert [(each["event"], each.get("error"), each.get("lines"), each.get("lines_in_all")) for each in told] == [
        ("output_failed", "No space left on device", None, None),
        ("lines_lost", None, 1, 1),
        ("lines_lost", None, 1, 2),
        ("output_recovered", None, None, None),
    ]


async def test_what_cant_be_told_is_told_later() -> None:
    reading, writing = os.pipe()
    sink = LineSink(writing, max_bytes=1)
    watched, events = Watched(name="events", sink=sink), Events(sink)
    blocker = b"x" * 1_000_000 + b"\n"
    assert sink.write(blocker)  # Nobody reads: no room for anything else.
    assert not events.emit("something")
    tell(watched, events)
    assert (watched.told_lines, sink.lost_lines) == (0, 2)
    os.set_blocking(reading, False)
    received = b""

    def read_on() -> bool:
        nonlocal received
        with suppress(BlockingIOError):
            received += os.read(reading, 1 << 20)
        return sink.waiting_bytes == 0

    await until(read_on)
    tell(watched, events)
    await until(lambda: sink.waiting_bytes == 0)
    received += os.read(reading, 1 << 20)
    assert json.loads(received.splitlines()[-1])["lines"] == 2
    sink.close(timeout_s=30)
    os.close(writing)
    os.close(reading)


async def test_a_sidecar_whose_standard_output_isnt_read_carries_connections_and_says_what_is_lost() -> None:
    """A pipe that is full, as when a log shipper hangs: here with a bound that 1,000 records exceed."""
    listen, application = free_port(), free_port()
    async with LittleCA().serving() as ca, served(application), stalled(
        ca.make_token("shop/web"), "--outbound", f"127.0.0.1:{listen}=127.0.0.1:{application}"
    ) as web:  # fmt: skip
        await web.wait_ready()
        for _ in range(40):
            assert await asyncio.to_thread(exchange, listen, 25) == 25
        await until(lambda: any(event["event"] == "lines_lost" for event in web.events))
        [told, *_] = [event for event in web.events if event["event"] == "lines_lost"]
        assert told["output"] == "decisions"
        assert told["lines"] > 0
        assert await web.stop() == 0
    assert "records_lost" in web.events[-1]


async def test_a_rotated_log_file_is_opened_anew_at_sighup(tmp_path: Path) -> None:
    listen, application = free_port(), free_port()
    log = tmp_path / "decisions"
    async with LittleCA().serving() as ca, served(application), sidecar(
        ca.make_token("shop/web"), "--outbound", f"127.0.0.1:{listen}=127.0.0.1:{application}", "--log-file", str(log)
    ) as web:  # fmt: skip
        await web.wait_ready()
        assert await run_client(listen, "a") == "echo a"
        await until(lambda: log.exists() and log.read_bytes().count(b"\n") == 1)
        log.rename(tmp_path / "decisions.1")
        web.process.send_signal(signal.SIGHUP)
        await until(log.exists)
        assert await run_client(listen, "b") == "echo b"
        await until(lambda: log.read_bytes().count(b"\n") == 1)
        assert await web.stop() == 0
    assert json.loads(log.read_bytes())["ending"] == "finished"


@asynccontextmanager
async def served(port: int) -> AsyncIterator[None]:
    """Run the echoing application."""
    server = await asyncio.create_subprocess_exec(sys.executable, "-c", SERVER, str(port), stdout=PIPE)
    try:
        assert server.stdout is not None
        await server.stdout.readline()
        yield
    finally:
        server.kill()
        await server.wait()


@asynccontextmanager
async def stalled(token: str, *arguments: str) -> AsyncIterator[Running]:
    """Run a sidecar whose standard output is a pipe of one page that isn't read, with a small bound on records."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    small = "from shared.runtime import sinks; sinks.LineSink.__init__.__kwdefaults__.update(max_bytes=65536)"
    start = f"{small}; import runpy, sys; sys.argv[1:1] = []; runpy.run_module('sidecar', run_name='__main__')"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", start, *arguments, cwd=ROOT, stdout=writing, stderr=PIPE,
        env={**os.environ, "TOUCHMARK_JOIN_TOKEN": token},
    )  # fmt: skip
    os.close(writing)
    running = Running(process)
    try:
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        os.close(reading)
        await running.close()


def exchange(port: int, count: int) -> int:
    """Exchange one message over each of so many connections; return how many were answered."""
    answered = 0
    for _ in range(count):
        with socket.create_connection(("127.0.0.1", port), 30) as connection:
            connection.sendall(b"x")
            connection.shutdown(socket.SHUT_WR)
            answered += connection.recv(100) == b"echo x"
    return answered
