"""Every message between a sidecar and the CA may be lost with its stream: nothing is lost, nothing doubled by that.

A proxy between a sidecar's real control plane and a real CA ends the connections at one TLS record after the other,
in either direction. Nothing starts a process here.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
import pytest

from ca.runtime.compose import RunningCA
from ca.store.records import DecisionFilter
from shared.model.identity.identity import Workload
from shared.model.identity.program import Program
from shared.model.trust.join_token import format_join_token, parse_join_token
from shared.model.wire.messages import ProgramEvidence, Welcome
from shared.runtime.sinks import LineSink
from shared.runtime.tasks import Tasks
from sidecar.connection import recording
from sidecar.connection.recording import Recorder
from sidecar.control import backoff, uplink
from sidecar.control.dispatch import Dispatch
from sidecar.control.feed import Feed
from sidecar.control.joining import ByJoinToken
from sidecar.control.opening import Opener, join
from sidecar.control.uplink import Uplink
from sidecar.credential.credential import Credential, KeyRequest, accept_chain
from sidecar.credential.store import CredentialStore
from sidecar.events import Events
from sidecar.mesh.directory_cache import DirectoryCache
from sidecar.mesh.foreign_trust import ForeignRoots
from sidecar.mesh.policies import Policies
from sidecar.mesh.trust import Trust
from tests.ca.running import make_registration, make_token, running_ca
from tests.ca.unhurried import unhurry as unhurry_ca
from tests.shared.model.policy.records import make_record
from tests.sidecar.little_ca import until
from tests.sidecar.unhurried import unhurry as unhurry_sidecar

PROGRAM: Final = Program(digest="a" * 64)
EVIDENCE: Final = ProgramEvidence(path="/bin/true", pid=1, uid=0)
CONNECTIONS: Final = ("one", "two")
MAX_MESSAGES: Final = 200
DEADLINE_S: Final = 300.0  # What it ends is asked again, and counted twice.


@dataclass(kw_only=True)
class CuttingProxy:
    """Passes connections on to the CA, and once ends one where a record should have been passed.

    Attributes:
        ca: host and port.
        is_answer: records from the CA are counted, else those to it.
        cut_at: the number of the record that is lost, over all connections.
        has_cut: it was.
    """

    ca: tuple[str, int]
    is_answer: bool
    cut_at: int
    passed: int = 0
    has_cut: bool = False
    running: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        onward_reader, onward_writer = await asyncio.open_connection(*self.ca)
        writers = (writer, onward_writer)
        try:
            await asyncio.gather(
                self._pass(reader, onward_writer, writers, is_counted=not self.is_answer),
                self._pass(onward_reader, writer, writers, is_counted=self.is_answer),
            )
        finally:
            for each in writers:
                each.close()

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        both: tuple[asyncio.StreamWriter, ...],
        *,
        is_counted: bool,
    ) -> None:
        try:
            while True:
                header = await reader.readexactly(5)  # RFC 8446, section 5.1: type, version, length.
                record = header + await reader.readexactly(int.from_bytes(header[3:]))
                if is_counted and not self.has_cut and self.passed == self.cut_at:
                    self.has_cut = True
                    for each in both:
                        each.transport.abort()
                    return
                self.passed += is_counted
                writer.write(record)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            writer.close()


@asynccontextmanager
async def cutting_proxy(
    services: RunningCA, *, is_answer: bool, cut_at: int
) -> AsyncIterator[tuple[CuttingProxy, str]]:
    """Run a proxy; yields it, and a join token that leads to it."""
    host, _, port = services.listen.rpartition(":")
    proxy = CuttingProxy(ca=(host, int(port)), is_answer=is_answer, cut_at=cut_at)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    token = parse_join_token(await make_token(services))
    address = "{}:{}".format(*server.sockets[0].getsockname()[:2])
    try:
        yield proxy, format_join_token(msgspec.structs.replace(token, ca=address))
    finally:
        server.close()


@contextmanager
def a_sink() -> Iterator[LineSink]:
    """Where the sidecar's lines go: nowhere."""
    null = os.open("/dev/null", os.O_WRONLY)
    sink = LineSink(null)
    try:
        yield sink
    finally:
        sink.close(timeout_s=30)
        os.close(null)


async def live(instance: str, token_text: str, sink: LineSink) -> None:
    """Join, get a program's certificate, tell of two connections, renew both certificates: a sidecar's whole talk."""
    token, events = parse_join_token(token_text), Events(sink)
    host, _, port = token.ca.rpartition(":")
    joining, uplink = ByJoinToken(token=token), Uplink(is_join_repeatable=False)
    opener = Opener(ca=(host, int(port)), joining=joining, registration=make_registration(instance), uplink=uplink)

    def accept(welcome: Welcome, request: KeyRequest) -> tuple[Welcome, Trust, Credential]:
        trust = Trust(welcome.bundle)
        own = accept_chain(request, welcome.chain, verifier=trust.verifier, generation=1, now=time.time())
        return welcome, trust, own

    welcome, trust, own = await join(opener, accept, events)
    policies = Policies(
        welcome.state, workload=Workload(namespace="shop", service_account="web"), ask=uplink.ask, timeout_s=DEADLINE_S
    )
    failed: list[BaseException] = []
    tasks = Tasks(lambda _, error: failed.append(error))
    store = CredentialStore(
        own, issuer=uplink, policies=policies, trust=trust, tasks=tasks, events=events, timeout_s=DEADLINE_S
    )
    recorder = Recorder(sink, send=uplink.send)
    dispatch = Dispatch(
        uplink=uplink,
        trust=trust,
        foreign=ForeignRoots(),
        policies=policies,
        directory=DirectoryCache(
            ask=uplink.ask, send=uplink.send, is_connected=lambda: uplink.is_connected, timeout_s=DEADLINE_S
        ),
        credentials=store,
        recorder=recorder,
        list_connections=lambda _: ((), False),
    )
    dispatch.acknowledge(welcome)
    feed = asyncio.create_task(Feed(opener, trust=trust, credentials=store, receiver=dispatch, events=events).run())
    try:
        first = await store.obtain(PROGRAM, EVIDENCE)
        for connection in CONNECTIONS:
            recorder.record(make_record(time=time.time(), sidecar=instance, connection=f"{instance}-{connection}"))
        await until(lambda: not recorder.waiting)
        store.reissue(0)
        await until(lambda: store.own is not own and store.get(PROGRAM) not in (None, first))
    finally:
        store.close()
        await recorder.close(timeout_s=DEADLINE_S)
        await uplink.close()
        feed.cancel()
        await asyncio.wait({feed})
    assert not failed


@pytest.mark.parametrize("is_answer", [False, True], ids=["questions", "answers"])
async def test_a_stream_that_is_cut_at_any_message_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_answer: bool
) -> None:
    unhurry_ca(monkeypatch)
    unhurry_sidecar(monkeypatch)
    monkeypatch.setattr(uplink, "_RECONNECT_GRACE_S", DEADLINE_S)
    monkeypatch.setattr(backoff, "FIRST_S", 0.01)
    monkeypatch.setattr(recording, "_WINDOW_S", 0.01)
    async with running_ca(tmp_path) as services:
        with a_sink() as sink:
            for cut_at in range(MAX_MESSAGES):
                instance = f"web-{cut_at}"
                async with cutting_proxy(services, is_answer=is_answer, cut_at=cut_at) as (proxy, token):
                    async with asyncio.timeout(600):
                        await live(instance, token, sink)
                if not proxy.has_cut:
                    break
        assert cut_at > 10, "each stream has a handshake and several messages"
        stored = await services.store.decisions.query(DecisionFilter(limit=1000))
        issued = await services.store.ledger.list_lines()
    found = Counter(each.record.connection for each in stored)
    assert found == {f"web-{number}-{each}": 1 for number in range(cut_at + 1) for each in CONNECTIONS}
    certificates = Counter((each.instance, each.identity) for each in issued)
    assert set(certificates.values()) == {2}, "each was asked for once, and renewed once"
    assert len(certificates) == 2 * (cut_at + 1)
