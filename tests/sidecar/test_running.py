"""Whole sidecars: started as a user starts them, joined to a CA, carrying a connection between two programs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.sidecar.little_ca import LittleCA, until

ROOT = Path(__file__).parents[2]
SERVER = """
import socket, sys
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('127.0.0.1', int(sys.argv[1]))); s.listen()
print('ready', flush=True)
while True:
    c, _ = s.accept()
    data = b''
    while (part := c.recv(65536)):
        data += part
    c.sendall(b'echo ' + data); c.close()
"""
CLIENT = """
import socket, sys
c = socket.create_connection(('127.0.0.1', int(sys.argv[1])), 20)
c.sendall(sys.argv[2].encode()); c.shutdown(socket.SHUT_WR)
data = b''
while (part := c.recv(65536)):
    data += part
print(data.decode())
"""


def free_port(address: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


class Running:
    """A sidecar's process, with what it says."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.events: list[dict[str, Any]] = []
        self.records: list[dict[str, Any]] = []
        assert process.stdout is not None
        assert process.stderr is not None
        self._readers = [
            asyncio.create_task(self._read(process.stdout, self.records)),
            asyncio.create_task(self._read(process.stderr, self.events)),
        ]

    async def _read(self, stream: asyncio.StreamReader, into: list[dict[str, Any]]) -> None:
        async for line in stream:
            try:
                into.append(json.loads(line))
            except ValueError:
                into.append({"event": "text", "text": line.decode()})

    async def wait_ready(self) -> None:
        await until(lambda: any(event["event"] == "sidecar_ready" for event in self.events), timeout_s=20)

    async def stop(self) -> int:
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(15):
            code = await self.process.wait()
            await asyncio.gather(*self._readers)
        return code


@asynccontextmanager
async def sidecar(token: str, *arguments: str) -> AsyncIterator[Running]:
    environment = {**os.environ, "TOUCHMARK_JOIN_TOKEN": token, "PYTHONPATH": str(ROOT)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sidecar", *arguments, cwd=ROOT, env=environment, stdout=PIPE, stderr=PIPE
    )
    running = Running(process)
    try:
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await asyncio.gather(*running._readers)


async def run_client(port: int, text: str) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CLIENT, str(port), text, stdout=PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    async with asyncio.timeout(30):
        out, _ = await process.communicate()
    return out.decode().strip()


async def test_two_sidecars_carry_a_connection_through_a_tunnel_and_record_it_on_both_sides() -> None:
    listen, application, tunnel, plain = free_port(), free_port(), free_port("127.0.0.2"), free_port("127.0.0.2")
    async with LittleCA().serving() as ca:
        server = await asyncio.create_subprocess_exec(sys.executable, "-c", SERVER, str(application), stdout=PIPE)
        try:
            assert server.stdout is not None
            await server.stdout.readline()
            async with (
                sidecar(
                    ca.make_token("shop/db"), "--tunnel-address", "127.0.0.2", "--tunnel-port", str(tunnel),
                    "--inbound", f"127.0.0.2:{plain}=127.0.0.1:{application}", "--instance", "db",
                ) as db,
                sidecar(
                    ca.make_token("shop/web"), "--outbound", f"127.0.0.1:{listen}=127.0.0.2:{plain}",
                    "--instance", "web",
                ) as web,
            ):  # fmt: skip
                await db.wait_ready()
                await web.wait_ready()
                await until(lambda: ca.issued >= 3)  # Two sidecars and, ahead of its first peer, the server.
                assert await run_client(listen, "hello") == "echo hello"
                await until(lambda: db.records and web.records)
                assert await web.stop() == 0
                assert await db.stop() == 0
                outbound, inbound = web.records[-1], db.records[-1]
        finally:
            server.kill()
            await server.wait()
    assert outbound["transport"] == inbound["transport"] == "tunnel"
    assert outbound["connection"] == inbound["connection"]
    assert (outbound["answer"], outbound["would_deny"], outbound["reason"]) == ("allow", True, "program_not_approved")
    assert inbound["source"]["workload"] == "shop/web"
    assert inbound["ending"] == "finished"
    assert (outbound["bytes_sent"], outbound["bytes_received"]) == (5, 10)
