"""Whole pods in network namespaces: the init container's redirect, a sidecar as a pod's runtime starts it, a Service.

Real nft, real file capabilities, real sockets; the CA is the tests' little one. What a real API server and kubelet make
of it is shown by ``tests/kubernetes``.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from shared.model.identity.program import parse_program
from shared.model.policy.rules import Approval, Mode, NamespaceState
from shared.model.wire.messages import DirectoryEntry, NamespaceInstalled, ServiceEntry, ServicePort
from tests.sidecar.little_ca import LittleCA, until
from tests.sidecar.pod_interpreter import KEPT, make_interpreter, start_in_pod, variables
from tests.sidecar.runtime.whole_sidecar import (
    SERVER,
    Running,
    enter,
    ip,
    open_socket_in,
    pod_arguments,
    pod_variables,
    run_client,
    sidecar,
    two_namespaces,
)

pytestmark = pytest.mark.needs_root

SERVICE = "198.18.255.10"
# What the kubelet asks of the application; as curl would show it.
GET = """
import sys, urllib.request, urllib.error
for url in sys.argv[1:]:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            print(answer.status, answer.read().decode().strip())
    except urllib.error.HTTPError as error:
        print(error.code, error.read().decode().strip())
    except OSError as error:
        # A reset that comes while the request is written is wrapped, one that comes later isn't.
        print('none', type(getattr(error, 'reason', error)).__name__)
"""
# Nothing is awaited after the send: like `logger -T`.
SEND = """
import os, socket
client = socket.socket()
client.connect(("198.18.0.2", 5432))
client.sendall(b"bread")
os._exit(0)
"""
WEB = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == '/healthz?deep=1' else 500)
        self.end_headers()
        self.wfile.write(self.path.encode())
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(('0.0.0.0', 8080), Handler)
print('ready', flush=True)
server.serve_forever()
"""


def install(namespace: str, *arguments: str) -> None:
    """Do what the init container does: root with NET_ADMIN alone."""
    command = ["setpriv", "--bounding-set=-all,+net_admin", "--no-new-privs", sys.executable, "-m"]
    subprocess.run(
        [*enter(namespace), *command, "sidecar.capture.install", *arguments], check=True, capture_output=True, text=True
    )


def install_holding(namespace: str, *arguments: str) -> None:
    """The same where connections wait; without NFT_QUEUE in the kernel `iptables` adds the one rule."""
    try:
        install(namespace, "--hold-connects", *arguments)
    except subprocess.CalledProcessError as error:
        assert "NFT_QUEUE" in error.stderr
        install(namespace, *arguments)
        rule = (
            "iptables -w -t mangle -A OUTPUT -p tcp --syn -m owner ! --uid-owner 1337 -m addrtype ! --dst-type LOCAL "
            "-j NFQUEUE --queue-num 15001 --queue-bypass"
        )
        subprocess.run([*enter(namespace), *rule.split()], check=True, capture_output=True)


@contextmanager
def two_pods() -> Iterator[tuple[str, str]]:
    """Two pods' network namespaces; each reaches everything else through the other."""
    with two_namespaces() as (left, right):
        ip("-n", left, "route", "add", "default", "via", "198.18.0.2")
        ip("-n", right, "route", "add", "default", "via", "198.18.0.1")
        yield left, right


@asynccontextmanager
async def a_program(namespace: str, code: str, *arguments: str) -> AsyncIterator[None]:
    """A program of the application, until the end of the block."""
    process = await asyncio.create_subprocess_exec(
        *enter(namespace), sys.executable, "-c", code, *arguments, stdout=PIPE
    )
    try:
        assert process.stdout is not None
        await process.stdout.readline()
        yield
    finally:
        process.kill()
        await process.wait()


async def ask_as_kubelet(namespace: str, *urls: str) -> list[str]:
    """Ask as the kubelet does: from elsewhere, uncaptured there."""
    process = await asyncio.create_subprocess_exec(
        *enter(namespace),
        "setpriv",
        "--reuid=1337",
        "--clear-groups",
        "/usr/bin/python3",
        "-c",
        GET,
        *urls,
        stdout=PIPE,
    )
    async with asyncio.timeout(120):
        out, _ = await process.communicate()
    return out.decode().splitlines()


@dataclass(kw_only=True)
class Pods:
    """A client's pod and a server's, with their sidecars."""

    ca: LittleCA
    left: str
    right: str
    web: Running
    db: Running


@asynccontextmanager
async def pods(
    directory: Path, *, probes: list[dict[str, Any]], drain_s: int = 20, holds_connects: bool = False
) -> AsyncIterator[Pods]:
    capabilities = KEPT | 1 << 12 if holds_connects else KEPT  # NET_ADMIN
    interpreter = make_interpreter(directory, capabilities)
    with two_pods() as (left, right):
        little = LittleCA(host="198.18.0.1", port=15443, open_socket=lambda: open_socket_in(left))
        async with little.serving() as ca:
            for namespace in (left, right):
                (install_holding if holds_connects else install)(namespace, "--exclude-inbound-port", "15443")

            def pod(name: str, address: str, namespace: str) -> Any:
                home = directory / name
                home.mkdir()
                ca.pod_tokens[f"token of {name}"] = f"shop/{name}"
                arguments = pod_arguments(ca, home)
                (home / "token").write_text(f"token of {name}")
                environment = {**variables(), **pod_variables(name, address), "TOUCHMARK_PROBES": json.dumps(probes)}
                return sidecar(
                    "", "--capture", "redirect", "--redirect-installed", "--health-port", "15020",
                    "--drain-seconds", str(drain_s), *(["--hold-connects"] if holds_connects else []), *arguments,
                    namespace=namespace, variables=environment,
                    interpreter=start_in_pod(interpreter, capabilities=capabilities),
                )  # fmt: skip

            async with (
                pod("db", "198.18.0.2,fd00:18::2", right) as db,
                pod("web", "198.18.0.1,fd00:18::1", left) as web,
            ):
                await db.wait_ready()
                await web.wait_ready()
                yield Pods(ca=ca, left=left, right=right, web=web, db=db)


def offer(ca: LittleCA, *endpoints: tuple[str, int]) -> None:
    """Have a Service with these endpoints."""
    entry = ServiceEntry(namespace="shop", name="db", ports=(ServicePort(port=80, endpoints=endpoints),))
    ca.entries[SERVICE] = DirectoryEntry(address=SERVICE, service=entry)


async def test_pods_reach_a_service_and_themselves_behind_it_through_tunnels(tmp_path: Path) -> None:
    async with pods(tmp_path, probes=[]) as mesh, a_program(mesh.right, SERVER, "5432", "198.18.0.2"):
        status = Path(f"/proc/{mesh.db.process.pid}/status").read_text(encoding="ascii")
        assert "Uid:\t1337\t1337\t1337\t1337" in status
        assert "CapEff:\t0000000000080004" in status
        assert "NoNewPrivs:\t1" in status
        offer(mesh.ca, ("198.18.0.2", 5432))
        await until(lambda: mesh.ca.issued >= 3)
        assert await run_client(80, "hello", address=SERVICE, namespace=mesh.left) == "echo hello"
        await until(lambda: mesh.web.records and mesh.db.records)
        # The pod is its own Service's endpoint.
        assert await run_client(80, "myself", address=SERVICE, namespace=mesh.right) == "echo myself"
        await until(lambda: len(mesh.db.records) == 3)
        offer(mesh.ca)
        await mesh.ca.tell(mesh.ca.entries[SERVICE])
        assert await run_client(80, "gone", address=SERVICE, namespace=mesh.left) == ""
        await until(lambda: len(mesh.web.records) == 2)
        outbound, refused = mesh.web.records
        inbound = mesh.db.records[0]
        assert outbound["transport"] == inbound["transport"] == "tunnel"
        assert outbound["connection"] == inbound["connection"]
        assert (outbound["destination"]["address"], outbound["port"]) == ("198.18.0.2:5432", 5432)
        assert outbound["detail"] == "service shop/db"
        assert outbound["source"]["program"]
        assert (refused["reason"], refused["detail"]) == (
            "destination_unreachable", "service shop/db has no ready endpoint for port 80",
        )  # fmt: skip
        itself = mesh.db.records[1:]
        assert {record["direction"] for record in itself} == {"egress", "ingress"}
        assert {record["transport"] for record in itself} == {"tunnel"}
        assert {record["source"]["workload"] for record in itself} == {"shop/db"}
        assert {record["destination"]["workload"] for record in itself} == {"shop/db"}
        assert len({record["connection"] for record in itself}) == 1
        # Nobody of ours was captured: neither the streams to the CA, nor the tunnel to itself.
        assert len(mesh.db.records) == 3


async def test_a_sender_that_exits_at_once_is_known_where_its_pod_holds_connections(tmp_path: Path) -> None:
    """The sidecar stands still while the sender dials, which otherwise would be gone before any look."""
    async with (
        pods(tmp_path, probes=[], holds_connects=True) as mesh,
        a_program(mesh.right, SERVER, "5432", "198.18.0.2"),
    ):
        status = Path(f"/proc/{mesh.web.process.pid}/status").read_text(encoding="ascii")
        assert "CapEff:\t0000000000081004" in status

        def is_dialling() -> bool:
            command = [*enter(mesh.left), "ss", "-Htn", "state", "syn-sent"]
            return bool(subprocess.run(command, capture_output=True, check=True).stdout.strip())

        for tries in range(1, 21):  # What was seen counts for 50 ms, which a busy machine may let pass.
            mesh.web.process.send_signal(signal.SIGSTOP)
            try:
                sender = await asyncio.create_subprocess_exec(*enter(mesh.left), sys.executable, "-c", SEND)
                await until(is_dialling, timeout_s=60)
                assert sender.returncode is None
            finally:
                mesh.web.process.send_signal(signal.SIGCONT)
            assert await sender.wait() == 0
            await until(lambda: len(mesh.web.records) >= tries, timeout_s=60)  # noqa: B023
            if mesh.web.records[-1]["source"]["program"]:
                return
            assert "had ended or closed its socket" in mesh.web.records[-1]["detail"]
        raise AssertionError(mesh.web.records)


async def test_in_explicit_mode_a_pod_is_nobody_to_itself_until_its_program_is_approved(tmp_path: Path) -> None:
    async with pods(tmp_path, probes=[]) as mesh, a_program(mesh.right, SERVER, "5432", "198.18.0.2"):
        offer(mesh.ca, ("198.18.0.2", 5432))
        await mesh.ca.set_state(NamespaceState(namespace="shop", version=2, mode=Mode.EXPLICIT))
        assert await run_client(80, "x", address=SERVICE, namespace=mesh.right) == ""
        await until(lambda: mesh.db.records)
        record = mesh.db.records[0]
        assert (record["answer"], record["mode"]) == ("deny", "explicit")
        # Client and server are the same interpreter here, both started with `-c`.
        approvals = (Approval(service_account="db", program=parse_program(record["source"]["program"]), weak=True),)
        await mesh.ca.set_state(NamespaceState(namespace="shop", version=3, mode=Mode.EXPLICIT, approvals=approvals))
        await until(lambda: mesh.ca.issued >= 3)
        assert await run_client(80, "x", address=SERVICE, namespace=mesh.right) == "echo x"


async def test_probes_pass_through_the_sidecar_where_outsiders_do_not(tmp_path: Path) -> None:
    """The application's own port is closed to whoever isn't in the mesh; the kubelet asks the sidecar instead."""
    patient = {"timeout_s": 30}  # A busy machine's program takes longer than a second, the default.
    common = {"container": "app", **patient}
    probes: list[dict[str, Any]] = [
        {**common, "kind": "liveness", "handler": "http", "port": 8080, "path": "/healthz?deep=1"},
        {**common, "kind": "readiness", "handler": "http", "port": 8080, "path": "/other"},
        {**common, "kind": "startup", "handler": "tcp", "port": 8080},
        {"container": "more", **patient, "kind": "startup", "handler": "tcp", "port": 8081},
    ]
    pod = "http://198.18.0.2:15020"
    async with pods(tmp_path, probes=probes) as mesh, a_program(mesh.right, WEB):
        await mesh.ca.set_state(NamespaceState(namespace="shop", version=2, mode=Mode.EXPLICIT))
        assert await ask_as_kubelet(
            mesh.left, f"{pod}/ready", f"{pod}/healthz", f"{pod}/probe/app/liveness", f"{pod}/probe/app/readiness",
            f"{pod}/probe/app/startup", f"{pod}/probe/nobody/liveness", "http://[fd00:18::2]:15020/ready",
            "http://198.18.0.2:8080/healthz?deep=1",
        ) == [
            "200 ready", "200 alive", "200 /healthz?deep=1", "500 /other", "200 connected", "404 no such probe",
            "200 ready", "none ConnectionResetError",
        ]  # fmt: skip
        (answer,) = await ask_as_kubelet(mesh.left, f"{pod}/probe/more/startup")
        assert answer.startswith("502 ")
        await until(lambda: mesh.db.records)
        assert [(record["answer"], record["direction"]) for record in mesh.db.records] == [("deny", "ingress")]


async def test_in_explicit_mode_readiness_waits_for_the_approval_that_its_record_asks_for(tmp_path: Path) -> None:
    probe = {"container": "app", "kind": "readiness", "handler": "http", "port": 8080, "path": "/healthz?deep=1"}
    probe["timeout_s"] = 30
    url = "http://198.18.0.2:15020/probe/app/readiness"
    async with pods(tmp_path, probes=[probe]) as mesh, a_program(mesh.right, WEB):

        async def install(**state: Any) -> None:
            """Have both sidecars confirm it."""
            wanted = NamespaceState(namespace="shop", mode=Mode.EXPLICIT, **state)
            confirmed = NamespaceInstalled(namespace="shop", version=wanted.version)
            await mesh.ca.set_state(wanted)
            await until(lambda: mesh.ca.of_type(NamespaceInstalled).count(confirmed) == 2)

        await install(version=2)
        assert await ask_as_kubelet(mesh.left, url, url) == ["503 readiness is withheld: listener_not_approved"] * 2
        await until(lambda: mesh.db.records)
        [record] = mesh.db.records
        program = record["destination"]["program"]
        assert record["detail"].endswith(f" isn't approved; touchmark program approve shop/db {program}")
        await install(version=3, approvals=(Approval(service_account="db", program=parse_program(program), weak=True),))
        assert await ask_as_kubelet(mesh.left, url) == ["200 /healthz?deep=1"]


async def test_without_a_live_connection_a_sidecar_ends_at_once_so_that_jobs_end(tmp_path: Path) -> None:
    async with pods(tmp_path, probes=[], drain_s=3_600) as mesh, a_program(mesh.right, SERVER, "5432", "198.18.0.2"):
        offer(mesh.ca, ("198.18.0.2", 5432))
        assert await run_client(80, "hello", address=SERVICE, namespace=mesh.left) == "echo hello"
        assert await mesh.web.stop() == 0  # It waits for a minute, not for an hour.
        assert await mesh.db.stop() == 0


async def test_while_it_joins_a_sidecar_says_that_it_is_not_ready_and_ends_at_sigterm(tmp_path: Path) -> None:
    interpreter = make_interpreter(tmp_path)
    with two_pods() as (left, right):
        install(right)
        ca = LittleCA(host="198.18.0.1", port=15443)
        environment = {**variables(), **pod_variables("db", "198.18.0.2")}
        async with sidecar(
            "", "--capture", "redirect", "--redirect-installed", "--health-port", "15020", *pod_arguments(ca, tmp_path),
            namespace=right, variables=environment, interpreter=start_in_pod(interpreter),
        ) as running:  # fmt: skip
            await until(lambda: any(event["event"] == "ca_unreachable" for event in running.events))
            ready, alive = await ask_as_kubelet(
                left, "http://198.18.0.2:15020/ready", "http://198.18.0.2:15020/healthz"
            )
            assert ready.startswith("503 not joined yet: the CA at 198.18.0.1:15443 can't be reached")
            assert alive == "200 alive"
            # Nothing gets past a sidecar that isn't ready: neither out nor in.
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await run_client(5432, "x", address="198.18.0.1", namespace=right)
            running.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(60):
                assert await running.process.wait() == 0
            await running.stop()


async def test_root_or_a_plain_interpreter_is_refused_in_one_clear_sentence(tmp_path: Path) -> None:
    with two_pods() as (_, right):
        install(right)
        ca = LittleCA(host="198.18.0.1", port=15443)
        plain = make_interpreter(tmp_path, 1 << 2)
        environment = {**variables(), **pod_variables("db", "198.18.0.2")}
        for interpreter, says in (([sys.executable], "must not run as root"), (start_in_pod(plain), "SYS_PTRACE")):
            async with sidecar(
                "", "--capture", "redirect", "--redirect-installed", *pod_arguments(ca, tmp_path), namespace=right,
                variables=environment, interpreter=interpreter,
            ) as running:  # fmt: skip
                async with asyncio.timeout(60):
                    assert await running.process.wait() == 8
                await running.stop()
                assert any(says in event.get("text", "") for event in running.events)


@pytest.mark.parametrize("address", ["198.18.0.2", "fd00:18::2"])
async def test_what_is_excluded_reaches_its_destination_and_all_else_an_absent_sidecar(
    address: str,
) -> None:
    code = SERVER.replace("socket.socket()", "socket.socket(socket.AF_INET6)") if ":" in address else SERVER
    with two_pods() as (left, right):

        async def reach(port: int) -> str:
            return await run_client(port, "x", address=address, namespace=left)

        async with (
            a_program(right, code, "5432", address),
            a_program(right, code, "5433", address),
            a_program(right, code, "15020", address),
        ):
            install(left, "--exclude-outbound-port", "5433")
            assert [await reach(5432), await reach(5433)] == ["", "echo x"]
            install(left, "--exclude-outbound-cidr", "198.18.0.2/32", "--exclude-outbound-cidr", "fd00:18::/64")
            assert [await reach(5432), await reach(5433)] == ["echo x", "echo x"]
            install(right, "--exclude-inbound-port", "5433")
            assert [await reach(5432), await reach(5433), await reach(15020)] == ["", "echo x", "echo x"]
