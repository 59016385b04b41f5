"""A running sidecar's metrics (``metrics.py``), admin socket (``local_socket.py``) and its answers (``answers.py``)."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import urllib.request
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from shared.model.errors import InputError, MachineError, NotFoundError, RefusedError
from shared.model.version import VERSION
from shared.model.wire.sidecar_admin import (
    SOCKET_PREFIX,
    Answer,
    ConnectionsQuestion,
    Dump,
    DumpQuestion,
    Level,
    LevelQuestion,
    Question,
    SidecarConnections,
)
from shared.runtime.sidecar_socket import ask_sidecar, choose_sidecar, list_sidecars
from shared.runtime.sinks import LineSink
from shared.runtime.tasks import Tasks
from sidecar.administration import answers, metrics
from sidecar.administration.local_socket import MAX_CLIENTS, AdminSocket, check_peer, open_admin_listener
from sidecar.control.uplink import Uplink
from sidecar.events import Events
from sidecar.native.engine import current_workers, load
from sidecar.probing.life import Life
from tests.free_ports import free_port
from tests.sidecar.little_ca import LittleCA, until
from tests.sidecar.runtime.whole_sidecar import SERVER, run_client, sidecar

PREFIX = f"test-{os.getpid()}"


def scrape(port: int) -> dict[str, Metric]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=120) as answer:
        text = answer.read().decode()
    return {each.name: each for each in text_string_to_metric_families(text)}


def read_one(families: dict[str, Metric], name: str, **labels: str) -> float:
    samples = families[f"touchmark_sidecar_{name}"].samples
    [value] = [each.value for each in samples if labels.items() <= each.labels.items()]
    return value


async def test_a_sidecar_says_what_it_did_and_what_it_has() -> None:
    assert metrics.Metrics is not None
    assert answers.Answers is not None
    listen, application, tunnel, plain = free_port(), free_port(), free_port("127.0.0.2"), free_port("127.0.0.2")
    health = free_port("0.0.0.0")
    name = f"{PREFIX}-web"
    async with LittleCA().serving() as ca:
        server = await asyncio.create_subprocess_exec(sys.executable, "-c", SERVER, str(application), stdout=PIPE)
        try:
            assert server.stdout is not None
            await server.stdout.readline()
            async with (
                sidecar(
                    ca.make_token("shop/db"), "--tunnel-address", "127.0.0.2", "--tunnel-port", str(tunnel),
                    "--inbound", f"127.0.0.2:{plain}=127.0.0.1:{application}", "--instance", f"{PREFIX}-db",
                    "--admin-socket", "off",
                ) as db,
                sidecar(
                    ca.make_token("shop/web"), "--outbound", f"127.0.0.1:{listen}=127.0.0.2:{plain}",
                    "--instance", name, "--health-port", str(health), "--workers", "2",
                ) as web,
            ):  # fmt: skip
                await db.wait_ready()
                await web.wait_ready()
                for number, text in enumerate(("one", "two"), start=1):
                    assert await run_client(listen, text) == f"echo {text}"
                    # From its record on the tunnel is back in the pool: the next connection finds it there.
                    await until(lambda number=number: len(web.records) == number)  # type: ignore[misc]
                await _check_metrics(health)
                await asyncio.to_thread(_check_answers, name)
                assert f"{PREFIX}-db" not in list_sidecars()
                assert await web.stop() == 0
                assert await db.stop() == 0
        finally:
            server.kill()
            await server.wait()
    with pytest.raises(NotFoundError):
        choose_sidecar(name)


async def _check_metrics(port: int) -> None:
    found = await asyncio.to_thread(scrape, port)
    allowed = {"direction": "egress", "verdict": "allow", "would_deny": "true", "reason": "program_not_approved"}
    assert read_one(found, "decisions", **allowed) == 2
    assert read_one(found, "bytes", direction="egress", flow="sent") == 6
    assert read_one(found, "bytes", direction="egress", flow="received") == 16
    assert read_one(found, "tunnels", outcome="opened") == 1
    assert read_one(found, "tunnels", outcome="reused") == 1
    assert read_one(found, "tunnel_handshakes", role="initiator", kind="full") == 1
    assert read_one(found, "tunnel_handshakes", role="initiator", kind="resumed") == 0
    assert read_one(found, "ca_stream_connected") == 1
    assert read_one(found, "workers") == (0 if load() is None else 2)
    assert read_one(found, "places", bound="outbound") >= 1
    assert read_one(found, "places_used", bound="outbound") == 0
    assert read_one(found, "records_lost", at="log") == 0
    assert 0 < read_one(found, "credential_remaining_seconds", of="sidecar") <= 3600
    attestations = found["touchmark_sidecar_attestation_seconds"].samples
    assert [each.value for each in attestations if each.name.endswith("_count")] == [2]
    assert found["process_resident_memory_bytes"].samples[0].value > 1_000_000
    assert found["process_open_fds"].samples[0].value > 3
    # Nobody is named: neither workloads nor addresses, whoever reads it.
    labels = [value for each in found.values() for sample in each.samples for value in sample.labels.values()]
    assert not [value for value in labels if "/" in value or "shop" in value or "127." in value]


def _check_answers(name: str) -> None:
    assert choose_sidecar(name) == name
    dump = ask_sidecar(name, DumpQuestion(), expect=Dump)
    assert (dump.instance, dump.stage, dump.workload, dump.ca_connected) == (name, "serving", "shop/web", True)
    assert dump.credentials[0].identity.endswith("/sidecar")
    assert {each.namespace for each in dump.namespaces} == {"shop"}
    assert dump.directory_size == len(dump.directory) == 1
    assert {each.name for each in dump.bounds} == {"outbound", "strangers", "peers", "handshakes"}
    assert ask_sidecar(name, ConnectionsQuestion(), expect=SidecarConnections) == SidecarConnections(
        instance=name, connections=()
    )
    assert ask_sidecar(name, LevelQuestion(), expect=Level) == Level(instance=name, level="info")
    assert ask_sidecar(name, LevelQuestion(level="error"), expect=Level) == Level(instance=name, level="error")
    with pytest.raises(RefusedError, match="not a level"):
        ask_sidecar(name, LevelQuestion(level="loud"), expect=Level)
    asked = [sys.executable, "-m", "sidecar.administration", "log-level", "--instance", name]
    told = subprocess.run(asked, capture_output=True, timeout=180, check=True)
    assert json.loads(told.stdout)["level"] == "error"
    told = subprocess.run([*asked[:-1], "nobody"], capture_output=True, timeout=180, check=False)
    assert (told.returncode, told.stdout) == (4, b"")
    assert b"[not_found]" in told.stderr


async def test_the_page_names_the_release_and_the_engine_that_moves_bytes(engine: str, tmp_path: Path) -> None:
    """Also before the sidecar has joined, when there is little else to tell."""
    with (tmp_path / "events").open("wb") as file:
        sink = LineSink(file.fileno())
        uplink, events = Uplink(is_join_repeatable=False), Events(sink)
        page = metrics.Metrics(Life(), uplink=uplink, events=events, take_max_lag_s=lambda: 0.0).render().decode()
        sink.close(timeout_s=30)
    found = {each.name: each for each in text_string_to_metric_families(page)}
    [info] = found["touchmark_sidecar_info"].samples
    assert (info.labels, info.value) == ({"version": VERSION, "engine": engine}, 1)
    assert read_one(found, "workers") == (0 if engine == "python" else current_workers())


async def test_the_socket_refuses_other_users_and_what_is_no_question() -> None:
    failures: list[str] = []
    tasks = Tasks(lambda task, error: failures.append(f"{task}: {error!r}"))
    name = f"{PREFIX}-raw"
    with pytest.raises(MachineError):
        listener = open_admin_listener(name)
        try:
            open_admin_listener(name)
        finally:
            listener.close()

    def answer(question: Question) -> Answer:
        return Level(instance=name, level="info")

    server = AdminSocket(open_admin_listener(name), answer=answer, is_own_container=True, tasks=tasks)
    server.start()
    try:
        assert await asyncio.to_thread(ask_sidecar, name, LevelQuestion(), expect=Level) == Level(
            instance=name, level="info"
        )
        for text in (b"{}\n", b'{"type":"no"}\n', b'{"type":"dump","limit":"x"}\n'):
            assert b"not a question" in await _exchange(name, text)
        assert await _exchange(name, b"x" * 5000) == b""
        if os.geteuid() == 0:
            nobody = await asyncio.create_subprocess_exec(
                sys.executable, "-c", _BECOME_NOBODY + _ASK, name, stdout=PIPE
            )
            said, _ = await nobody.communicate()
            assert b"only root and the sidecar's own user may ask" in said
            elsewhere = await asyncio.create_subprocess_exec(
                "unshare", "--mount", sys.executable, "-c", _ASK, name, stdout=PIPE
            )
            said, _ = await elsewhere.communicate()
            assert b"only a process in the sidecar's container may ask" in said
        silent = [await asyncio.open_unix_connection(f"\0{SOCKET_PREFIX}{name}") for _ in range(MAX_CLIENTS)]
        await until(lambda: len(tasks) == MAX_CLIENTS)
        assert await _exchange(name, b'{"type":"log_level"}\n') == b""
        for _, writer in silent:
            writer.close()
        await until(lambda: len(tasks) == 0)
    finally:
        server.close()
        await tasks.close(timeout_s=5)
    assert failures == []


_BECOME_NOBODY = "import os, socket; os.setgid(65534); os.setuid(65534)"
_ASK = """
import socket, sys
c = socket.socket(socket.AF_UNIX); c.settimeout(120)
c.connect("\\0touchmark/sidecar/" + sys.argv[1])
c.sendall(b'{"type":"log_level"}\\n')
print(c.recv(65536).decode())
"""


async def _exchange(name: str, text: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(f"\0{SOCKET_PREFIX}{name}")
    try:
        writer.write(text)
        async with asyncio.timeout(120):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


def test_of_several_sidecars_one_must_be_named() -> None:
    names = [f"{PREFIX}-{letter}" for letter in "ab"]
    listeners = [open_admin_listener(name) for name in names]
    try:
        assert set(names) <= set(list_sidecars())
        with pytest.raises(InputError, match="sidecars listen here") as caught:
            choose_sidecar("")
        assert "--instance" in caught.value.hint
        left, right = socket.socketpair(socket.AF_UNIX)
        with left, right:
            check_peer(left, is_own_container=True)
    finally:
        for listener in listeners:
            listener.close()
