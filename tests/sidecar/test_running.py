"""Whole sidecars: started as a user starts them, joined to a CA, carrying a connection between two programs."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.sidecar.little_ca import LittleCA, until

ROOT = Path(__file__).parents[2]
SERVER = """
import socket, sys
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind((sys.argv[2] if len(sys.argv) > 2 else '127.0.0.1', int(sys.argv[1]))); s.listen()
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
c = socket.create_connection((sys.argv[3] if len(sys.argv) > 3 else '127.0.0.1', int(sys.argv[1])), 20)
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
        def ready() -> bool:
            return any(event["event"] == "sidecar_ready" for event in self.events)

        try:
            await until(lambda: ready() or self.process.returncode is not None, timeout_s=20)
        finally:
            assert ready(), self.events

    async def stop(self) -> int:
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(15):
            code = await self.process.wait()
            await asyncio.gather(*self._readers)
        return code


@asynccontextmanager
async def sidecar(token: str, *arguments: str, namespace: str = "") -> AsyncIterator[Running]:
    environment = {**os.environ, "TOUCHMARK_JOIN_TOKEN": token, "PYTHONPATH": str(ROOT)}
    process = await asyncio.create_subprocess_exec(
        *enter(namespace),
        sys.executable,
        "-m",
        "sidecar",
        *arguments,
        cwd=ROOT,
        env=environment,
        stdout=PIPE,
        stderr=PIPE,
    )
    running = Running(process)
    try:
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await asyncio.gather(*running._readers)


def enter(namespace: str) -> list[str]:
    return ["ip", "netns", "exec", namespace] if namespace else []


async def run_client(port: int, text: str, *, address: str = "127.0.0.1", namespace: str = "") -> str:
    process = await asyncio.create_subprocess_exec(
        *enter(namespace),
        sys.executable,
        "-c",
        CLIENT,
        str(port),
        text,
        address,
        stdout=PIPE,
        stderr=asyncio.subprocess.DEVNULL,
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


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@contextmanager
def two_namespaces() -> Iterator[tuple[str, str]]:
    """Two network namespaces, joined by a cable: 198.18.0.1 and fd00:18::1, 198.18.0.2 and fd00:18::2."""
    tag = secrets.token_hex(3)
    left, right = f"tm-{tag}-a", f"tm-{tag}-b"
    try:
        for name in (left, right):
            ip("netns", "add", name)
        ip("link", "add", f"v{tag}a", "netns", left, "type", "veth", "peer", "name", f"v{tag}b", "netns", right)
        for number, (name, device) in enumerate(((left, f"v{tag}a"), (right, f"v{tag}b")), start=1):
            ip("-n", name, "address", "add", f"198.18.0.{number}/24", "dev", device)
            ip("-n", name, "address", "add", f"fd00:18::{number}/64", "dev", device, "nodad")
            ip("-n", name, "link", "set", device, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield left, right
    finally:
        for name in (left, right):
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def open_socket_in(namespace: str) -> socket.socket:
    """Open a TCP socket in another network namespace; a thread enters it, so that nothing else does."""
    opened: list[socket.socket] = []

    def enter_and_open() -> None:
        with open(f"/run/netns/{namespace}", "rb") as file:
            if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), 0x40000000) == 0:
                opened.append(socket.socket())

    thread = threading.Thread(target=enter_and_open)
    thread.start()
    thread.join()
    return opened[0]


@pytest.mark.needs_root
@pytest.mark.parametrize(("web", "db"), [("198.18.0.1", "198.18.0.2"), ("fd00:18::1", "fd00:18::2")])
async def test_redirected_programs_talk_through_a_tunnel_without_knowing_it(web: str, db: str) -> None:
    server_code = SERVER.replace("socket.socket()", "socket.socket(socket.AF_INET6)") if ":" in db else SERVER
    with two_namespaces() as (left, right):
        ca_here = LittleCA(host="198.18.0.1", port=15443, open_socket=lambda: open_socket_in(left))
        async with ca_here.serving() as ca:
            server = await asyncio.create_subprocess_exec(
                *enter(right), sys.executable, "-c", server_code, "5432", db, stdout=PIPE
            )
            try:
                assert server.stdout is not None
                await server.stdout.readline()
                common = ("--capture", "redirect", "--exclude-port", "15443", "--tunnel-address")
                async with (
                    sidecar(ca.make_token("shop/db"), *common, db, "--instance", "db", namespace=right) as there,
                    sidecar(ca.make_token("shop/web"), *common, web, "--instance", "web", namespace=left) as here,
                ):
                    await there.wait_ready()
                    await here.wait_ready()
                    status = Path(f"/proc/{here.process.pid}/status").read_text(encoding="ascii")
                    await until(lambda: ca.issued >= 3)
                    assert await run_client(5432, "hello", address=db, namespace=left) == "echo hello"
                    await until(lambda: here.records and there.records)
                    assert await run_client(15001, "x", namespace=left) == ""  # Straight to the capture port: reset.
                    await until(lambda: len(here.records) > 1)
                    assert await here.stop() == 0
                    assert await there.stop() == 0
            finally:
                server.kill()
                await server.wait()
    outbound, inbound, direct = here.records[0], there.records[0], here.records[1]
    assert outbound["transport"] == inbound["transport"] == "tunnel"
    assert outbound["connection"] == inbound["connection"]
    assert outbound["destination"]["workload"] == "shop/db"
    assert (direct["answer"], direct["reason"]) == ("deny", "direct_connection")
    assert "Uid:\t1337\t1337\t1337\t1337" in status
    assert "CapEff:\t0000000000080004" in status
    assert "CapPrm:\t0000000000080004" in status
    assert "NoNewPrivs:\t1" in status
