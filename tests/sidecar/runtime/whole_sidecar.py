"""Whole sidecars for tests: started as a user starts them, with programs and networks to run between."""

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
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.free_ports import free_port
from tests.sidecar.little_ca import TRUST_DOMAIN, LittleCA, until

ROOT = Path(__file__).parents[3]
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
c = socket.create_connection((sys.argv[3] if len(sys.argv) > 3 else '127.0.0.1', int(sys.argv[1])), 200)
c.sendall(sys.argv[2].encode()); c.shutdown(socket.SHUT_WR)
data = b''
while (part := c.recv(65536)):
    data += part
print(data.decode())
"""


class Running:
    """A sidecar's process, with what it says."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.events: list[dict[str, Any]] = []
        self.records: list[dict[str, Any]] = []
        outputs = ((process.stdout, self.records), (process.stderr, self.events))
        self._readers = [asyncio.create_task(self._read(out, into)) for out, into in outputs if out is not None]

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
            await until(lambda: ready() or self.process.returncode is not None, timeout_s=240)
        finally:
            assert ready(), self.events

    async def close(self) -> None:
        """Read to the end of what an ended process has said."""
        await asyncio.gather(*self._readers)

    async def stop(self) -> int:
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(240):
            code = await self.process.wait()
            await asyncio.gather(*self._readers)
        return code


@asynccontextmanager
async def sidecar(
    token: str,
    *arguments: str,
    namespace: str = "",
    prefix: Sequence[str] = (),
    variables: Mapping[str, str] = MappingProxyType({}),
    interpreter: Sequence[str] = (sys.executable,),
) -> AsyncIterator[Running]:
    environment = {**os.environ, "TOUCHMARK_JOIN_TOKEN": token, "PYTHONPATH": str(ROOT), **variables}
    process = await asyncio.create_subprocess_exec(
        *(prefix or enter(namespace)),
        *interpreter,
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


async def run_client(
    port: int, text: str, *, address: str = "127.0.0.1", namespace: str = "", prefix: Sequence[str] = ()
) -> str:
    process = await asyncio.create_subprocess_exec(
        *(prefix or enter(namespace)),
        sys.executable,
        "-c",
        CLIENT,
        str(port),
        text,
        address,
        stdout=PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(240):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return out.decode().strip()


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
    """Open a TCP socket in a named network namespace."""
    return open_socket_at(f"/run/netns/{namespace}")


def open_socket_at(path: str) -> socket.socket:
    """Open a TCP socket in another network namespace; a thread enters it, so that nothing else does."""
    opened: list[socket.socket] = []

    def enter_and_open() -> None:
        with open(path, "rb") as file:
            if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), 0x40000000) == 0:
                opened.append(socket.socket())

    thread = threading.Thread(target=enter_and_open)
    thread.start()
    thread.join()
    return opened[0]


class Echo:
    """A server that answers at once, behind a whole sidecar, reached in plaintext from outside the mesh."""

    def __init__(self, running: Running, plain: int) -> None:
        self.running = running
        self.plain = plain

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.2", self.plain)


async def echo_back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
    except ConnectionError:
        pass
    writer.close()


@asynccontextmanager
async def an_echo(ca: LittleCA, *arguments: str) -> AsyncIterator[Echo]:
    plain, tunnel = free_port("127.0.0.2"), free_port("127.0.0.2")
    server = await asyncio.start_server(echo_back, "127.0.0.1", 0)
    application = server.sockets[0].getsockname()[1]
    async with server, sidecar(
        ca.make_token("shop/db"), "--tunnel-address", "127.0.0.2", "--tunnel-port", str(tunnel),
        "--inbound", f"127.0.0.2:{plain}=127.0.0.1:{application}", *arguments,
    ) as running:  # fmt: skip
        await running.wait_ready()
        yield Echo(running, plain)


def pod_variables(name: str, addresses: str) -> dict[str, str]:
    """What the downward API says of a pod of shop/NAME."""
    return {
        "TOUCHMARK_POD_NAME": name,
        "TOUCHMARK_POD_NAMESPACE": "shop",
        "TOUCHMARK_POD_UID": "01234567-89ab-cdef-0123-456789abcdef",
        "TOUCHMARK_POD_IPS": addresses,
        "TOUCHMARK_SERVICE_ACCOUNT": name,
    }


def pod_arguments(ca: LittleCA, directory: Path) -> tuple[str, ...]:
    """How a pod's sidecar is told to join; with the files that it finds there."""
    (directory / "token").write_text("a pod's token")
    (directory / "roots.pem").write_bytes(ca.roots_pem)
    return (
        "--ca", f"{ca.host}:{ca.port}", "--service-account-token", str(directory / "token"),
        "--trust-file", str(directory / "roots.pem"), "--trust-domain", TRUST_DOMAIN,
    )  # fmt: skip
