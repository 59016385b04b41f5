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
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

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
            await until(lambda: ready() or self.process.returncode is not None, timeout_s=60)
        finally:
            assert ready(), self.events

    async def stop(self) -> int:
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
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
        async with asyncio.timeout(60):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
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


class Echo:
    """A server that answers at once, behind a whole sidecar, reached in plaintext from outside the mesh."""

    def __init__(self, running: Running, plain: int) -> None:
        self.running = running
        self.plain = plain

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.2", self.plain)


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
    except ConnectionError:
        pass
    writer.close()


@asynccontextmanager
async def an_echo(ca: LittleCA, *arguments: str) -> AsyncIterator[Echo]:
    plain, tunnel = free_port("127.0.0.2"), free_port("127.0.0.2")
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    application = server.sockets[0].getsockname()[1]
    async with server, sidecar(
        ca.make_token("shop/db"), "--tunnel-address", "127.0.0.2", "--tunnel-port", str(tunnel),
        "--inbound", f"127.0.0.2:{plain}=127.0.0.1:{application}", *arguments,
    ) as running:  # fmt: skip
        await running.wait_ready()
        yield Echo(running, plain)


async def test_at_sigterm_live_connections_finish_and_new_ones_are_refused() -> None:
    async with LittleCA().serving() as ca, an_echo(ca) as echo:
        reader, writer = await echo.connect()
        writer.write(b"before ")
        assert await reader.readexactly(7) == b"before "
        echo.running.process.terminate()
        await until(lambda: any(event["event"] == "sidecar_draining" for event in echo.running.events))
        with pytest.raises(ConnectionRefusedError):
            await echo.connect()
        assert echo.running.process.returncode is None
        writer.write(b"after")
        writer.write_eof()
        assert await reader.read() == b"after"
        writer.close()
        assert await echo.running.stop() == 0
    assert [record["ending"] for record in echo.running.records if record["phase"] == "end"] == ["finished"]
    assert echo.running.events[-1]["event"] == "sidecar_stopped"


async def test_a_sidecar_that_cannot_join_yet_says_so_and_ends_at_sigterm() -> None:
    ca = LittleCA()
    async with ca.serving():
        token = ca.make_token("shop/web")
    async with sidecar(token, "--outbound", f"127.0.0.1:{free_port()}=127.0.0.2:9") as running:
        await until(lambda: any(event["event"] == "ca_unreachable" for event in running.events))
        assert await running.stop() == 0


async def test_a_peer_that_restarts_loses_nobody() -> None:
    """Its idle tunnel says CLOSING, so that the next connection doesn't meet a broken one."""
    listen, tunnel, plain = free_port(), free_port("127.0.0.2"), free_port("127.0.0.2")
    async with LittleCA().serving() as ca:
        server = await asyncio.start_server(_echo, "127.0.0.1", 0)
        inbound = f"127.0.0.2:{plain}=127.0.0.1:{server.sockets[0].getsockname()[1]}"
        arguments = ("--tunnel-address", "127.0.0.2", "--tunnel-port", str(tunnel), "--inbound", inbound)
        async with (
            server,
            sidecar(ca.make_token("shop/web"), "--outbound", f"127.0.0.1:{listen}=127.0.0.2:{plain}") as web,
        ):
            await web.wait_ready()
            for turn in range(3):
                async with sidecar(ca.make_token("shop/db"), *arguments, "--instance", f"db{turn}") as db:
                    await db.wait_ready()
                    assert await run_client(listen, f"turn {turn}") == f"turn {turn}"
                    await until(lambda: db.records)
                    assert await db.stop() == 0
            assert await web.stop() == 0
    assert [record["transport"] for record in web.records] == ["tunnel"] * 3
    assert {record["ending"] for record in web.records} == {"finished"}


@pytest.mark.parametrize(("arguments", "signals"), [(("--drain-seconds", "1"), 1), ((), 2)])
async def test_the_draining_ends_at_its_deadline_or_with_a_second_signal(
    arguments: tuple[str, ...], signals: int
) -> None:
    async with LittleCA().serving() as ca, an_echo(ca, *arguments) as echo:
        reader, writer = await echo.connect()
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        began = asyncio.get_running_loop().time()
        for _ in range(signals):
            echo.running.process.send_signal(signal.SIGTERM)
            await until(lambda: any(event["event"] == "sidecar_draining" for event in echo.running.events))
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        assert await echo.running.process.wait() == 0
        assert asyncio.get_running_loop().time() - began < 15  # Left to itself it would drain for 20 s.
        await echo.running.stop()
    assert [record["ending"] for record in echo.running.records if record["phase"] == "end"] == ["shutdown"]


async def test_beyond_the_configured_number_connections_are_refused_and_recorded() -> None:
    async with LittleCA().serving() as ca, an_echo(ca, "--max-connections", "1") as echo:
        reader, writer = await echo.connect()
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        with pytest.raises(ConnectionResetError):  # Already while it connects, where the reset is faster than the loop.
            second, refused = await echo.connect()
            try:
                await second.read()
            finally:
                refused.close()
        await until(lambda: echo.running.records)
        writer.close()
        assert await echo.running.stop() == 0
    assert (echo.running.records[0]["answer"], echo.running.records[0]["reason"]) == ("deny", "overloaded")


async def test_the_stream_is_closed_properly_at_the_end() -> None:
    async with LittleCA().serving() as ca, an_echo(ca) as echo:
        stream = ca.streams[0]
        assert await echo.running.stop() == 0
        await until(lambda: not ca.streams)
        assert stream.close_code == 1000
    assert not any(event["event"] == "ca_stream_lost" for event in echo.running.events)


async def test_a_sidecar_that_expired_while_the_ca_was_away_says_what_to_do_and_ends() -> None:
    ca = LittleCA(life_s=4)
    async with ca.serving():
        token = ca.make_token("shop/web")
        arguments = ("--outbound", f"127.0.0.1:{free_port()}=127.0.0.2:9")
        context = sidecar(token, *arguments)
        running = await context.__aenter__()
        try:
            await running.wait_ready()
        except BaseException:
            await context.__aexit__(None, None, None)
            raise
    try:  # The CA is away now.
        async with asyncio.timeout(30):
            assert await running.process.wait() == 7
        await running.stop()
    finally:
        await context.__aexit__(None, None, None)
    (event,) = (event for event in running.events if event["event"] == "certificate_expired")
    assert "touchmark ca join-token shop/web" in event["hint"]
    assert any("hint: make a new token" in event.get("text", "") for event in running.events)


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


async def test_a_pods_sidecar_outlives_an_outage_longer_than_its_certificate_and_its_connections_go_on(
    tmp_path: Path,
) -> None:
    ca = LittleCA(life_s=4, pod_tokens={"a pod's token": "shop/db"})
    plain, tunnel = free_port("127.0.0.2"), free_port("127.0.0.2")
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    inbound = f"127.0.0.2:{plain}=127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, AsyncExitStack() as stack:
        async with ca.serving():
            arguments = (*pod_arguments(ca, tmp_path), "--tunnel-port", str(tunnel), "--inbound", inbound)
            running = await stack.enter_async_context(
                sidecar("", *arguments, variables=pod_variables("db", "127.0.0.2"))
            )
            await running.wait_ready()
            reader, writer = await asyncio.open_connection("127.0.0.2", plain)
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
        await asyncio.sleep(5)
        (tmp_path / "token").write_text("its next token")
        ca.pod_tokens, ca.life_s = {"its next token": "shop/db"}, 3600
        async with ca.serving():
            await until(lambda: any(event["event"] == "joined_again" for event in running.events), timeout_s=30)
            writer.write(b"y")
            assert await reader.readexactly(1) == b"y"
            writer.close()
            assert await running.stop() == 0
    assert [record["ending"] for record in running.records if record["phase"] == "end"] == ["finished"]


@pytest.mark.needs_root
async def test_nothing_gets_in_by_the_redirects_own_ports() -> None:
    """15006 listens on every address: whoever dials it, or 14970 to 15001, directly is refused, in v4 and v6."""
    hits = [
        (side, address, port)
        for side, address in [
            ("outside", "198.18.0.2"), ("outside", "fd00:18::2"), ("inside", "198.18.0.2"), ("inside", "fd00:18::2"),
            ("inside", "127.0.0.1"), ("inside", "::1"),
        ]
        for port in (14970, 15001, 15006)
    ]  # fmt: skip
    with two_namespaces() as (left, right):
        here = LittleCA(host="198.18.0.1", port=15443, open_socket=lambda: open_socket_in(left))
        async with (
            here.serving() as ca,
            sidecar(
                ca.make_token("shop/db"), "--capture", "redirect", "--exclude-port", "15443",
                "--tunnel-address", "198.18.0.2", "--tunnel-address", "fd00:18::2", namespace=right,
            ) as running,
        ):  # fmt: skip
            await running.wait_ready()
            answers = await asyncio.gather(
                *(
                    run_client(port, "x", address=address, namespace=left if side == "outside" else right)
                    for side, address, port in hits
                )
            )
            assert answers == [""] * len(hits)
            # 15001 listens on loopback alone: inside, the other addresses have nobody there to record it.
            expected = len(hits) - 4
            await until(lambda: len(running.records) >= expected)
            assert await running.stop() == 0
    assert len(running.records) == expected
    assert {(record["answer"], record["reason"]) for record in running.records} == {("deny", "direct_connection")}


@contextmanager
def two_namespaces_of_one_user() -> Iterator[tuple[list[str], list[str]]]:
    """The same two networks, in a user namespace with no user but 0 (``unshare -Urn``): prefixes to run commands in."""
    with ExitStack() as stack:

        def hold(*prefix: str) -> int:
            command = [*prefix, "sh", "-c", "echo ready; exec sleep 300"]
            holder = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
            stack.callback(holder.kill)
            assert holder.stdout is not None
            holder.stdout.readline()
            return holder.pid

        def enter_process(pid: int) -> list[str]:
            return ["nsenter", "--preserve-credentials", "-U", "-n", "-t", str(pid)]

        left = hold("unshare", "-Urn")
        right = hold(*enter_process(left), "unshare", "-n")
        prefixes = enter_process(left), enter_process(right)
        commands = [
            (0, f"link add va type veth peer name vb netns {right}"),
            *((side, f"address add 198.18.0.{side + 1}/24 dev v{'ab'[side]}") for side in (0, 1)),
            *((side, f"link set {device} up") for side in (0, 1) for device in (f"v{'ab'[side]}", "lo")),
        ]
        for side, command in commands:
            subprocess.run([*prefixes[side], "ip", *command.split()], check=True, capture_output=True, text=True)
        yield prefixes


@pytest.mark.needs_root
async def test_where_there_is_one_user_only_a_mark_exempts_the_sidecar() -> None:
    """As an ordinary user has it; root is asked for because this test itself enters the namespace for its CA."""
    with two_namespaces_of_one_user() as (left, right):
        path = f"/proc/{left[-1]}/ns/net"
        here = LittleCA(host="198.18.0.1", port=15443, open_socket=lambda: open_socket_at(path))
        async with here.serving() as ca:
            server = await asyncio.create_subprocess_exec(
                *right, sys.executable, "-c", SERVER, "5432", "198.18.0.2", stdout=PIPE
            )
            try:
                assert server.stdout is not None
                await server.stdout.readline()
                common = (
                    "--capture", "redirect", "--redirect-mark", "0x746d", "--exclude-port", "15443",
                    "--tunnel-address",
                )  # fmt: skip
                # First the one beside the CA: its redirect would break a connection to the CA that is there already.
                async with sidecar(ca.make_token("shop/web"), *common, "198.18.0.1", prefix=left) as web:
                    await web.wait_ready()
                    async with sidecar(ca.make_token("shop/db"), *common, "198.18.0.2", prefix=right) as there:
                        await there.wait_ready()
                        await until(lambda: ca.issued >= 3)
                        assert await run_client(5432, "hello", address="198.18.0.2", prefix=left) == "echo hello"
                        await until(lambda: web.records and there.records)
                        assert await web.stop() == 0
                        assert await there.stop() == 0
            finally:
                server.kill()
                await server.wait()
    outbound, inbound = web.records[0], there.records[0]
    assert outbound["transport"] == inbound["transport"] == "tunnel"
    assert outbound["connection"] == inbound["connection"]
    assert len(web.records) == len(there.records) == 1  # The sidecars' own connections weren't captured.
