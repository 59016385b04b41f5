"""The real signing process: whatever happens to it, each certificate is signed once and in the ledger."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import structlog.testing
from cryptography import x509

from ca.issuance import Issuance, IssuanceRefused, IssuedChain
from ca.runtime import compose
from ca.settings.configuration import SigningProcessMode
from ca.signing import process as module
from ca.signing.__main__ import serve
from ca.signing.orders import Answer, FrameReader, Orders, write_frame
from ca.signing.process import MANY, SigningProcess
from ca.signing.work import write_handover
from ca.store.records import LedgerFilter
from shared.model.errors import VerificationError
from shared.model.identity.program import Program
from shared.model.wire.messages import ProgramEvidence
from tests.ca import founded
from tests.ca.founded import NOW, Founded, make_rotation
from tests.ca.running import running_ca
from tests.ca.signing.given import CSR, ISSUER, SIDECAR, make_order, make_wanted, spoil

CURL = Program(digest="c" * 64)
START_S = 240.0


@pytest.fixture(autouse=True)
def unhurried_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "START_DEADLINE_S", START_S)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(START_S):
        while not holds():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running(signing: SigningProcess) -> AsyncIterator[SigningProcess]:
    task = asyncio.create_task(signing.run())
    try:
        yield signing
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def beside(core: Founded, *, answer_deadline_s: float = 300.0) -> AsyncIterator[SigningProcess]:
    """Have a core sign by a process of its own."""
    signing = SigningProcess(
        lambda: core.authorities.active, is_always=True, answer_deadline_s=answer_deadline_s, min_pause_s=0.0
    )
    core.authorities.on_change(signing.note_authorities)
    core.issuance = Issuance(core.store, core.authorities, signer=signing)
    async with running(signing):
        await until(lambda: signing.pid != 0)
        yield signing


async def issue(core: Founded, number: int, csr: bytes = CSR) -> IssuedChain:
    return await core.issuance.issue_program(SIDECAR, csr, CURL, ProgramEvidence(), NOW, instance=f"s-{number}")


async def check_ledger(core: Founded, issued: list[IssuedChain]) -> None:
    """See that the ledger has what was issued and nothing else, and that each was signed as it says."""
    lines = await core.store.ledger.list_lines(LedgerFilter(alive_at=NOW))
    assert sorted(line.serial for line in lines) == sorted(each.record.serial for each in issued)
    assert len({each.record.serial for each in issued}) == len(issued)
    by_id = {record.authority_id: record for record in core.authorities.snapshot.records}
    for each in issued:
        leaf, issuer = (x509.load_der_x509_certificate(der) for der in each.chain)
        leaf.verify_directly_issued_by(issuer)
        assert leaf.serial_number == each.record.serial
        assert by_id[each.record.authority_id].certificate == each.chain[1]


@pytest.mark.parametrize("after", [0, 1, 40])
async def test_killed_under_issuance_nothing_is_missing_and_nothing_twice(tmp_path: Path, after: int) -> None:
    async with founded.opened(tmp_path / "d") as core, beside(core) as signing:
        pid, done = signing.pid, 0

        async def issue_and_kill(number: int) -> IssuedChain:
            nonlocal done
            issued = await issue(core, number)
            done += 1
            if done == after:
                os.kill(pid, signal.SIGKILL)
            return issued

        tasks = [asyncio.create_task(issue_and_kill(number)) for number in range(200)]
        if not after:
            await asyncio.sleep(0)
            os.kill(pid, signal.SIGKILL)
        issued = await asyncio.gather(*tasks)
        await until(lambda: signing.pid not in (0, pid))
        issued += [await issue(core, 1000)]
        await check_ledger(core, issued)


async def test_stopped_it_is_given_up_after_its_deadline_and_replaced(tmp_path: Path) -> None:
    async with founded.opened(tmp_path / "d") as core, beside(core, answer_deadline_s=0.2) as signing:
        pid = signing.pid
        os.kill(pid, signal.SIGSTOP)
        issued = await asyncio.gather(*(issue(core, number) for number in range(100)))
        with pytest.raises(ProcessLookupError):
            while True:  # Until it is reaped.
                os.kill(pid, 0)
                await asyncio.sleep(0.01)
        await check_ledger(core, issued)


async def test_a_rotation_under_load_signs_by_the_authority_that_is_active(tmp_path: Path) -> None:
    async with founded.opened(tmp_path / "d") as core, beside(core) as signing:
        pid, before = signing.pid, core.authorities.active.authority_id
        rotation = make_rotation(core.store, core.authorities)
        early = [asyncio.create_task(issue(core, number)) for number in range(100)]
        await rotation.start(now=NOW)
        await rotation.advance(NOW)
        late = [asyncio.create_task(issue(core, number)) for number in range(100, 200)]
        issued = await asyncio.gather(*early, *late)
        assert before != core.authorities.active.authority_id
        assert {each.record.authority_id for each in issued[100:]} == {core.authorities.active.authority_id}
        assert signing.pid == pid
        await check_ledger(core, issued)


async def test_a_request_that_doesnt_hold_is_refused_and_the_others_get_theirs(tmp_path: Path) -> None:
    async with founded.opened(tmp_path / "d") as core, beside(core):
        wrong = issue(core, 0, spoil(CSR))
        outcomes = await asyncio.gather(wrong, *(issue(core, number) for number in range(1, 9)), return_exceptions=True)
        assert isinstance(outcomes[0], IssuanceRefused)
        await check_ledger(core, [each for each in outcomes[1:] if isinstance(each, IssuedChain)])
        assert len(await core.store.ledger.list_lines()) == 8


async def test_it_is_started_once_much_is_signed_and_ended_once_little_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the working directory holds under its name isn't started, unless this process has its modules from there.
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ca").mkdir()
    (tmp_path / "ca/__init__.py").write_text("raise SystemExit(1)")
    second = 0.0
    signing = SigningProcess(lambda: ISSUER, monotonic=lambda: second)
    monkeypatch.setattr(module, "FEW_FOR_S", 0.01)
    with structlog.testing.capture_logs() as logs:
        async with running(signing):
            for _ in range(2):  # In each second one too few.
                second += 1
                for _ in range(MANY):
                    signing._count()
            assert not signing._is_wanted.is_set()
            signing._count()
            assert signing._is_wanted.is_set()
            await until(lambda: len(logs) >= 2)
            assert [each["event"] for each in logs] == ["signing_process_started", "signing_process_ended"]
            await until(lambda: signing.pid == 0)
            signed = await signing.sign(ISSUER, make_wanted())
            x509.load_der_x509_certificate(signed.der).verify_directly_issued_by(ISSUER.certificate)


async def test_one_that_cant_be_started_costs_no_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    lost: list[None] = []
    signing = SigningProcess(lambda: ISSUER, is_always=True, note_lost=lambda: lost.append(None))
    with structlog.testing.capture_logs() as logs:
        async with running(signing):
            await until(lambda: bool(logs))
            assert (logs[0]["event"], len(lost)) == ("signing_process_lost", 1)
            await signing.sign(ISSUER, make_wanted())
            with pytest.raises(VerificationError):
                await signing.sign(ISSUER, make_wanted(spoil(CSR)))


async def test_a_ca_that_ends_leaves_none_behind(tmp_path: Path) -> None:
    async with running_ca(tmp_path, signing_process=SigningProcessMode.ON) as services:
        signing = services.signing
        assert signing is not None
        await until(lambda: signing.pid != 0)
        pid = signing.pid
        issued = await services.issuance.issue_program(SIDECAR, CSR, CURL, ProgramEvidence(), time.time())
        assert await services.store.ledger.get(issued.record.serial) == issued.record
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize(("mode", "count", "has_one"), [("off", 64, False), ("auto", 1.9, False), ("auto", 2, True)])
async def test_it_takes_a_processor_of_its_own_or_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, count: float, *, has_one: bool
) -> None:
    monkeypatch.setattr(compose, "count_processors", lambda: count)
    async with running_ca(tmp_path, signing_process=SigningProcessMode(mode)) as services:
        assert (services.signing is not None) is has_one


def test_of_the_environment_it_gets_what_starts_an_interpreter() -> None:
    given = {"PATH": "/bin", "TOUCHMARK_KEK": "secret", "PGPASSWORD": "secret", "PYTHONPATH": "/foreign"}
    made = module._make_environment(given)
    made.pop("PYTHONNOUSERSITE", None)  # As these tests were started.
    assert made == {"PATH": "/bin", "PYTHONPATH": os.pathsep.join(sys.path)}


def test_it_ends_when_the_ca_is_gone_and_can_be_looked_into_by_nobody() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child = subprocess.Popen([sys.executable, "-m", "ca.signing", str(theirs.fileno())], pass_fds=[theirs.fileno()])
        theirs.close()
        ours.sendall(write_frame(Orders(write_handover(ISSUER), [])))
        assert ours.recv(65_536) == write_frame([])
        if os.geteuid() != 0:
            with pytest.raises(PermissionError):
                os.listdir(f"/proc/{child.pid}/fd")
        ours.close()
        assert child.wait(START_S) == 0


# Starts the signing process as its parent would, and says which it is; waits for its own end.
PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-m", "ca.signing", sys.argv[1]], pass_fds=[int(sys.argv[1])])
print(child.pid, flush=True)
sys.stdin.read()
"""


def test_stopped_it_ends_with_its_parent_although_its_socket_is_open() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        parent = subprocess.Popen(
            [sys.executable, "-c", PARENT, str(theirs.fileno())],
            pass_fds=[theirs.fileno()], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        ours.sendall(write_frame(Orders(write_handover(ISSUER), [])))
        assert ours.recv(65_536) == write_frame([])  # It is past its preparations.
        os.kill(pid, signal.SIGSTOP)
        parent.kill()
        parent.communicate()
        deadline = time.monotonic() + START_S
        while is_alive(pid):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether a process is there and no zombie: who reaps an orphan, and when, is the machine's business."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def test_orders_are_answered_in_groups_and_none_before_an_authority() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        thread = threading.Thread(target=serve, args=(theirs,))
        thread.start()
        ours.sendall(write_frame(Orders(write_handover(ISSUER), [make_order(number) for number in range(9)])))
        reader, answers = FrameReader(), list[list[Answer]]()
        while sum(map(len, answers)) < 9:
            answers += [msgspec.msgpack.decode(each, type=list[Answer]) for each in reader.take(ours.recv(65_536))]
        ours.shutdown(socket.SHUT_WR)
        thread.join(START_S)
    assert [[each.number for each in group] for group in answers] == [[*range(8)], [8]]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(write_frame(Orders(None, [make_order()])))
        with pytest.raises(ValueError, match="authority"):
            serve(theirs)
