"""Three replicas in processes of their own on one PostgreSQL, killed at random while they issue certificates."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509
from websockets.exceptions import WebSocketException

from ca.runtime.compose import RunningCA
from ca.store.records import LedgerFilter, ProgramRecord
from shared.model.identity.program import Program
from shared.model.wire.messages import CertificateIssued, CertificateRefused, CertificateRequest
from tests.ca.distribution.test_replica_sync import Elsewhere
from tests.ca.postgresql import PostgreSQL
from tests.ca.running import FakeSidecar, make_client_context, make_csr, running_ca

PROGRAM = Program(digest="ab" * 32)
_CLIENTS = 3
_KILLS = 2
_DEADLINE_S = 240.0


@dataclass(slots=True, kw_only=True)
class Replica:
    """A CA's process; it has another port each time it is started."""

    directory: Path
    url: str
    listen: str = ""
    starts: int = 0
    process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.directory.mkdir(exist_ok=True)
        self.starts += 1
        said = self.directory / f"log-{self.starts}"  # A file: nobody reads a pipe to its end.
        with said.open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "ca", "--listen", "127.0.0.1:0", "--kek-file", self.directory.parent / "kek"),
                *("--data-dir", self.directory / "data", "--admin-socket", self.directory / "admin.sock"),
                env={**os.environ, "TOUCHMARK_DATABASE_URL": self.url},
                stderr=log,
            )
        listen = ""
        while not listen:
            assert self.process.returncode is None, said.read_text()
            listen = said.read_text().partition('"listen": "')[2].partition('"')[0]
            await asyncio.sleep(0.05)
        self.listen = listen

    async def kill(self) -> None:
        self.listen = ""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGKILL)
            await self.process.wait()


@dataclass(slots=True, kw_only=True)
class Client:
    """A sidecar that asks again, of whichever replica there is, until it has the answer to each request."""

    one: RunningCA
    replicas: list[Replica]
    instance: str
    address: str
    pem: Path
    chance: random.Random
    listen: str = ""  # Of the replica that it asks.
    received: dict[bytes, int] = field(default_factory=dict)  # Key of a request → serial.
    repeated: int = 0
    unanswered: int = 0  # How often a request was sent to a replica that didn't answer any more.

    async def ask(self, is_over: asyncio.Event) -> None:
        """Ask until it is over; each request until it is answered."""
        waiting: list[bytes] = []
        while waiting or not is_over.is_set():
            try:
                await self._ask_of_one(waiting, is_over)
            except (OSError, WebSocketException, TimeoutError):
                self.repeated += 1  # It was killed: the answer, if there was one, is lost.
                self.unanswered += len(waiting)
                await asyncio.sleep(0.05)

    async def _ask_of_one(self, waiting: list[bytes], is_over: asyncio.Event) -> None:
        alive = [each.listen for each in self.replicas if each.listen]
        if not alive:
            raise ConnectionRefusedError
        one = self.one
        self.listen = self.chance.choice(alive)
        there = Elsewhere(store=one.store, authorities=one.authorities, clock=one.clock, listen=self.listen)
        async with FakeSidecar(there, make_client_context(one, self.pem)) as web:  # type: ignore[arg-type]
            await web.resume(self.instance, self.address)
            while waiting or not is_over.is_set():
                if not waiting:
                    waiting.append(make_csr()[1])
                await web.send(CertificateRequest(request=1, csr=waiting[0], program=PROGRAM))
                while not isinstance(answer := await web.receive(), CertificateIssued):
                    assert not isinstance(answer, CertificateRefused), answer
                leaf = x509.load_der_x509_certificate(answer.chain[0])
                self.received[waiting.pop()] = leaf.serial_number
                await asyncio.sleep(0.05)


@pytest.fixture
async def replicas(tmp_path: Path, postgresql: PostgreSQL) -> AsyncIterator[tuple[RunningCA, list[Replica]]]:
    """The three, and a fourth that is only looked at."""
    url = postgresql.url_for(tmp_path)
    (tmp_path / "one").mkdir()
    async with running_ca(tmp_path / "one", database=url, kek_file=tmp_path / "kek") as one:
        made = [Replica(directory=tmp_path / f"r{number}", url=url) for number in range(3)]
        try:
            await asyncio.gather(*(each.start() for each in made))
            yield one, made
        finally:
            for each in made:
                await each.kill()


async def test_nothing_is_missing_from_the_ledger_and_nothing_is_there_twice(
    tmp_path: Path, replicas: tuple[RunningCA, list[Replica]]
) -> None:
    one, processes = replicas
    chance = random.Random(7)
    await one.store.namespaces.put_program(
        ProgramRecord(namespace="shop", name="web", service_account="web", programs=(PROGRAM,), approved_by="me")
    )
    clients = []
    for number in range(_CLIENTS):
        instance, address = f"web-{number}", f"198.18.0.{number + 1}"
        async with FakeSidecar(one) as web:
            await web.enrol(instance, address)
            pem = web.write_pem(tmp_path / f"{instance}.pem")
        clients.append(Client(one=one, replicas=processes, instance=instance, address=address, pem=pem, chance=chance))

    is_over = asyncio.Event()

    async def kill_some() -> None:
        for _ in range(_KILLS):
            before = sum(len(each.received) for each in clients)
            while sum(len(each.received) for each in clients) < before + 15:
                await asyncio.sleep(0.05)
            # Who hasn't asked again since the last kill names a replica that isn't there any more.
            while not (asked := {each.listen for each in clients} & {each.listen for each in processes}):
                await asyncio.sleep(0.05)
            killed = chance.choice([each for each in processes if each.listen in asked])
            await killed.kill()
            await killed.start()
        is_over.set()

    async with asyncio.timeout(_DEADLINE_S):
        await asyncio.gather(*(each.ask(is_over) for each in clients), kill_some())
    assert sum(each.repeated for each in clients) > 0, "nobody noticed that a replica was killed"
    lines = await one.store.ledger.list_lines(LedgerFilter(limit=10_000))
    entered = [line.serial for line in lines if line.identity.program == PROGRAM]
    received = [serial for each in clients for serial in each.received.values()]
    assert len(received) == len(set(received)) >= 15 * _KILLS
    assert len(entered) == len(set(entered)), "a certificate is in the ledger twice"
    assert set(received) <= set(entered), "a certificate isn't in the ledger"
    # Who is killed after its ledger has the line, and before the answer is sent, leaves a certificate that nobody has:
    # the other replicas don't know its request again, and sign another one for the same key.
    assert len(entered) - len(received) <= sum(each.unanswered for each in clients)
