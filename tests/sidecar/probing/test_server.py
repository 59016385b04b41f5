"""The server that the kubelet asks: fixed paths, only GET, bounds, and hooks whose failure is a broken connection."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from shared.model.errors import MachineError
from shared.model.kubernetes.contract import ProbeTarget
from shared.runtime.sinks import LineSink
from shared.runtime.tasks import Tasks
from sidecar.events import Events
from sidecar.probing import server as probe_server
from sidecar.probing.outcome import MAX_BODY_BYTES, Outcome, fail
from sidecar.probing.server import MAX_CONNECTIONS, ProbeServer, open_probe_listeners
from tests.free_ports import free_port
from tests.sidecar.little_ca import until

LIVENESS = ProbeTarget(container="app", kind="liveness", handler="tcp", port=1)
HOOK = ProbeTarget(container="app", kind="post-start", handler="http", port=1)


class Kubelet:
    """Asks the server, and says what the application is to answer."""

    def __init__(self) -> None:
        self.port = 0
        self.ready = Outcome(status=200, body=b"ready\n")
        self.outcome = Outcome(status=200, body=b"fine")
        self.performed: list[ProbeTarget] = []
        self.cancelled = 0
        self.rendered = 0
        self.wait = asyncio.Event()
        self.wait.set()
        self.tasks = Tasks(lambda name, error: self.failures.append(f"{name}: {error!r}"))
        self.failures: list[str] = []

    async def perform(self, target: ProbeTarget) -> Outcome:
        """Answer as the test says, when it says."""
        self.performed.append(target)
        try:
            await self.wait.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return self.outcome

    def render(self) -> bytes:
        """Render the page of metrics."""
        self.rendered += 1
        return b"up 1\n" * 1000

    async def send(self, data: bytes) -> bytes:
        """Send bytes and return everything that comes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(data)
            async with asyncio.timeout(120):
                return await reader.read()
        finally:
            writer.close()

    async def get(self, path: str) -> tuple[int, bytes]:
        """GET, as the kubelet does."""
        answer = await self.send(f"GET {path} HTTP/1.1\r\nHost: pod\r\nUser-Agent: kube-probe/1.36\r\n\r\n".encode())
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), body


@asynccontextmanager
async def a_server(
    targets: Sequence[ProbeTarget] = (LIVENESS, HOOK), *, has_metrics: bool = True
) -> AsyncIterator[Kubelet]:
    kubelet = Kubelet()
    null = os.open("/dev/null", os.O_WRONLY)
    sink = LineSink(null)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    kubelet.port = listener.getsockname()[1]
    server = ProbeServer(
        [listener], targets=targets, judge=lambda: kubelet.ready, perform=kubelet.perform,
        render_metrics=kubelet.render if has_metrics else None, tasks=kubelet.tasks, events=Events(sink),
    )  # fmt: skip
    server.start()
    try:
        yield kubelet
    finally:
        server.close()
        await kubelet.tasks.close(timeout_s=30)
        sink.close(timeout_s=30)
        os.close(null)
        assert kubelet.failures == []


async def test_readiness_health_and_the_pods_probes_are_answered() -> None:
    async with a_server() as kubelet:
        assert await kubelet.get("/ready") == (200, b"ready\n")
        kubelet.ready = Outcome(status=503, body=b"draining\n")
        assert await kubelet.get("/ready") == (503, b"draining\n")
        assert await kubelet.get("/healthz") == (200, b"alive\n")
        assert await kubelet.get("/probe/app/liveness") == (200, b"fine")
        assert kubelet.performed == [LIVENESS]


@pytest.mark.parametrize("status", [204, 302, 304, 404, 503])
async def test_the_applications_status_is_passed_on(status: int) -> None:
    async with a_server() as kubelet:
        kubelet.outcome = Outcome(status=status, body=b"body")
        assert await kubelet.get("/probe/app/liveness?x") == (status, b"" if status in (204, 304) else b"body")


async def test_a_long_body_is_cut() -> None:
    async with a_server() as kubelet:
        kubelet.outcome = Outcome(status=200, body=b"x" * 10_240)
        assert await kubelet.get("/probe/app/liveness") == (200, b"x" * MAX_BODY_BYTES)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /probe/app/readiness HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
        (b"GET /probe/../ready HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
        (b"POST /ready HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", b"405"),
        (b"DELETE /healthz HTTP/1.1\r\nHost: x\r\n\r\n", b"405"),
        (b"\x16\x03\x01 hello\r\n\r\n", b"400"),
        (b"GET /ready HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /ready HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 17_000, b"431"),
    ],
)
async def test_everything_else_is_refused(request_bytes: bytes, status: bytes) -> None:
    async with a_server() as kubelet:
        answer = await kubelet.send(request_bytes)
        assert answer.split()[1] == status
        assert kubelet.performed == []


async def test_a_head_request_or_none_at_all_ends_without_an_answer() -> None:
    async with a_server() as kubelet:
        assert b"200" not in await kubelet.send(b"HEAD /ready HTTP/1.1\r\nHost: x\r\n\r\n")
        reader, writer = await asyncio.open_connection("127.0.0.1", kubelet.port)
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()


async def test_a_hook_that_nobody_answered_is_a_broken_connection_for_any_answer_is_success() -> None:
    async with a_server() as kubelet:
        kubelet.outcome = Outcome(status=500)
        assert (await kubelet.get("/probe/app/post-start"))[0] == 500
    async with a_server() as kubelet:
        kubelet.outcome = fail("nobody is there")
        with pytest.raises(ConnectionResetError):
            await kubelet.send(b"GET /probe/app/post-start HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await kubelet.get("/probe/app/liveness"))[0] == 502


async def test_a_hook_is_not_performed_again_at_once_nor_twice_at_a_time() -> None:
    async with a_server() as kubelet:
        kubelet.wait.clear()
        first = asyncio.create_task(kubelet.get("/probe/app/post-start"))
        await until(lambda: kubelet.performed)
        with pytest.raises(ConnectionResetError):
            await kubelet.get("/probe/app/post-start")
        kubelet.wait.set()
        assert (await first)[0] == 200
        with pytest.raises(ConnectionResetError):
            await kubelet.get("/probe/app/post-start")
        assert kubelet.performed == [HOOK]


async def test_without_the_pods_secret_a_hook_or_probe_is_not_found() -> None:
    hook, probe = (
        ProbeTarget(container=f"{'ab' * 16}/app", kind=kind, handler="http", port=1)
        for kind in ("pre-stop", "liveness")
    )
    async with a_server([hook, probe]) as kubelet:
        for path in ("/probe/app/pre-stop", "/probe/app/liveness", f"/probe/{'ac' * 16}/app/pre-stop"):
            assert (await kubelet.get(path))[0] == 404
        assert kubelet.performed == []
        assert await kubelet.get(f"/probe/{'ab' * 16}/app/pre-stop") == (200, b"fine")
        assert await kubelet.get(f"/probe/{'ab' * 16}/app/liveness") == (200, b"fine")


async def test_metrics_are_answered_whole_where_they_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_server() as kubelet:
        assert await kubelet.get("/metrics") == (200, b"up 1\n" * 1000)
        answer = await kubelet.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"content-type: text/plain; version=0.0.4; charset=utf-8\r\n" in answer.lower()
        kubelet.rendered = 0
        monkeypatch.setattr(probe_server, "_PAGE_LIFE_S", 600)
        for _ in range(3):
            assert await kubelet.get("/metrics") == (200, b"up 1\n" * 1000)
        assert kubelet.rendered == 0, "who asks often gets the last page"
    async with a_server(has_metrics=False) as kubelet:
        assert (await kubelet.get("/metrics"))[0] == 404


async def test_silent_strangers_make_room_for_the_kubelet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_server, "_REQUEST_S", 600)
    async with a_server() as kubelet:
        strangers = [await asyncio.open_connection("127.0.0.1", kubelet.port) for _ in range(MAX_CONNECTIONS)]
        await until(lambda: len(kubelet.tasks) == MAX_CONNECTIONS)
        assert await kubelet.get("/healthz") == (200, b"alive\n")
        assert await strangers[0][0].read() == b"", "the one that waited longest"
        for _, writer in strangers:
            writer.close()
        await until(lambda: len(kubelet.tasks) == 0)


async def test_a_kubelet_that_gave_up_ends_its_probe() -> None:
    async with a_server() as kubelet:
        kubelet.wait.clear()
        _, writer = await asyncio.open_connection("127.0.0.1", kubelet.port)
        writer.write(b"GET /probe/app/liveness HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: kubelet.performed)
        writer.close()
        await until(lambda: kubelet.cancelled)
        await until(lambda: len(kubelet.tasks) == 0)


async def test_no_more_than_the_bound_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_server, "_REQUEST_S", 600)
    async with a_server() as kubelet:
        kubelet.wait.clear()
        silent = [await asyncio.open_connection("127.0.0.1", kubelet.port) for _ in range(MAX_CONNECTIONS)]
        for _, writer in silent:
            writer.write(b"GET /probe/app/liveness HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: len(kubelet.performed) == MAX_CONNECTIONS)
        with pytest.raises(ConnectionResetError):
            await kubelet.send(b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n")
        for _, writer in silent:
            writer.close()
        await until(lambda: len(kubelet.tasks) == 0)
        assert await kubelet.get("/ready") == (200, b"ready\n")


async def test_who_stays_silent_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_server, "_REQUEST_S", 0.1)
    async with a_server() as kubelet:
        reader, writer = await asyncio.open_connection("127.0.0.1", kubelet.port)
        assert await reader.read() == b""
        writer.close()
        await until(lambda: len(kubelet.tasks) == 0)


def test_it_listens_on_both_families_and_says_when_it_cannot() -> None:
    port = free_port("0.0.0.0")
    with socket.create_server(("127.0.0.1", port)), pytest.raises(MachineError, match="Address already in use"):
        open_probe_listeners(port)
    listeners = open_probe_listeners(port)
    try:
        assert {listener.getsockname()[0] for listener in listeners} == {"0.0.0.0", "::"}
    finally:
        for listener in listeners:
            listener.close()
