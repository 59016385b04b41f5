"""All holders, asked for by several at once."""

import asyncio
import os
import shutil
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from shared.model.identity.program import Program
from shared.model.policy.reasons import Reason
from shared.runtime import patience as patience_module
from shared.runtime.patience import Patience
from sidecar.attest.executable import Executables
from sidecar.attest.facts import Attestation, AttestationError, Execution, ProcessFacts
from sidecar.attest.holding import holder_check
from sidecar.attest.holding.clearance import Clearance
from sidecar.attest.holding.holder_check import HolderCheck
from sidecar.attest.holding.holders import Holdings, Passes
from sidecar.attest.measure import Measuring
from sidecar.attest.process import Process
from tests.sidecar.attest.processes import WAIT, hear, running

ELSEWHERE = Execution(1, 0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("slice_s", [0.002, 0.0], ids=["in one slice", "each in its own"])
async def test_each_waiter_gets_its_own_answer(monkeypatch: pytest.MonkeyPatch, slice_s: float) -> None:
    monkeypatch.setattr(holder_check, "SLICE_S", slice_s)
    with ThreadPoolExecutor(2) as workers, socket.socket() as held, socket.socket() as free:
        measuring = Measuring(Executables(workers, max_bytes=1 << 30), workers)
        check = HolderCheck(measuring, workers, own_pid=os.getpid(), patience=Patience(30))
        with running("import sys\n" + WAIT, pass_fds=(held.fileno(),)) as child:
            process = Process(child.pid)
            facts = process.facts
            process.close()

            def attestation(one: socket.socket, pid_facts_program: Program) -> Attestation:
                inode = os.fstat(one.fileno()).st_ino
                stranger = type(facts)(pid=1, start_time=0, uid=0, path="/x")
                return Attestation(
                    program=pid_facts_program, process=stranger, inode=inode, cookie=0, execution=ELSEWHERE
                )

            measured = await measuring.measure(partial(Process, child.pid), 0)
            measured.process.close()
            other = Program(digest="0" * 64)
            answers = await asyncio.gather(
                check.check(attestation(held, measured.program)),
                check.check(attestation(held, other)),
                check.check(attestation(free, other)),
                return_exceptions=True,
            )
        check.close()
    assert answers[0] is None
    assert isinstance(answers[1], AttestationError)
    assert answers[1].reason is Reason.SOCKET_SHARED
    assert answers[2] is None


async def test_who_has_let_go_of_one_socket_is_still_looked_at_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadPoolExecutor(2) as workers, socket.socket() as gone, socket.socket() as held:
        check = HolderCheck(
            Measuring(Executables(workers, max_bytes=1 << 30), workers),
            workers,
            own_pid=os.getpid(),
            patience=Patience(30),
        )
        gone_inode, held_inode = (os.fstat(each.fileno()).st_ino for each in (gone, held))

        def is_holder(pid: int, inode: int) -> bool:
            return inode != gone_inode

        monkeypatch.setattr(holder_check, "is_holder", is_holder)
        with running("import sys\n" + WAIT, pass_fds=(gone.fileno(), held.fileno())) as child:
            process = Process(child.pid)
            stranger = type(process.facts)(pid=1, start_time=0, uid=0, path="/x")
            process.close()

            def attestation(inode: int, *others: int) -> Attestation:
                program = Program(digest="0" * 64)
                return Attestation(
                    program=program, process=stranger, inode=inode, cookie=0, execution=ELSEWHERE, others=others
                )

            answers = await asyncio.gather(
                check.check(attestation(gone_inode)),
                check.check(attestation(held_inode, gone_inode)),
                return_exceptions=True,
            )
        check.close()
    assert answers[0] is None
    assert isinstance(answers[1], AttestationError)
    assert answers[1].reason is Reason.SOCKET_SHARED


async def test_closing_cancels_who_still_waits() -> None:
    with ThreadPoolExecutor(2) as workers:
        check = HolderCheck(
            Measuring(Executables(workers, max_bytes=1), workers), workers, own_pid=0, patience=Patience(30)
        )
        facts = Process(os.getpid())
        waiting = asyncio.ensure_future(
            check.check(
                Attestation(
                    program=Program(digest="0" * 64), process=facts.facts, inode=1, cookie=0, execution=ELSEWHERE
                )
            )
        )
        await asyncio.sleep(0)
        check.close()
        facts.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting


# A parent that hides its copy of the socket in a thread's own descriptor table, and a child that keeps it openly.
_HIDING_PARENT = """
import ctypes,os,subprocess,sys,threading,time
number, child = int(sys.argv[1]), sys.argv[2]
kept = threading.Event()
def keep():
    assert ctypes.CDLL(None).unshare(0x400) == 0  # CLONE_FILES
    kept.set()
    time.sleep(600)
process = subprocess.Popen([child, '600'], pass_fds=(number,))
threading.Thread(target=keep, daemon=True).start()
kept.wait()
os.close(number)
print('ready', flush=True)
print(process.pid, flush=True)
time.sleep(600)
"""


# One whose first thread has ended, so that it has no executable to show; and one that executes itself without end, so
# that no look at it is ever complete.
_DEAD_LEADER = """
import ctypes,os,subprocess,sys,threading,time
number, child = int(sys.argv[1]), sys.argv[2]
process = subprocess.Popen([child, '600'], pass_fds=(number,))
def keep():
    while open('/proc/self/stat').read().rsplit(')', 1)[1].split()[0] != 'Z':
        time.sleep(0.001)
    os.write(1, b'ready\\n%d\\n' % process.pid)
    time.sleep(600)
threading.Thread(target=keep).start()
ctypes.CDLL(None).syscall(60, 0)
"""
_RESTLESS = """
import os,subprocess,sys
if sys.argv[1:]:
    number, child = int(sys.argv[1]), sys.argv[2]
    process = subprocess.Popen([child, '600'], pass_fds=(number,))
    os.write(1, b'ready\\n%d\\n' % process.pid)
loop = 'exec sh -c "$0" "$0"'
os.execv('/bin/sh', ['sh', '-c', loop, loop])
"""


@pytest.mark.parametrize(
    "parent_code",
    [_HIDING_PARENT, _DEAD_LEADER, _RESTLESS],
    ids=["in a thread's own table", "behind a dead leader", "executing itself without end"],
)
async def test_an_unapproved_parent_that_hides_its_copy_shares_the_socket(parent_code: str) -> None:
    """The approved child merely inherited it; the parent doesn't show that it holds it, or what it runs."""
    sleep = shutil.which("sleep")
    assert sleep is not None
    with ThreadPoolExecutor(2) as workers, socket.socket() as held:
        measuring = Measuring(Executables(workers, max_bytes=1 << 30), workers)
        check = HolderCheck(measuring, workers, own_pid=os.getpid(), patience=Patience(30))
        with running(parent_code, str(held.fileno()), sleep, pass_fds=(held.fileno(),)) as parent:
            child = int(hear(parent))
            # ``Popen`` returns while the child's ``execve`` still goes on.
            while Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] != "S":
                await asyncio.sleep(0.001)
            try:
                measured = await measuring.measure(partial(Process, child), 0)
                inode = os.fstat(held.fileno()).st_ino
                attestation = Attestation(
                    program=measured.program,
                    process=measured.process.facts,
                    inode=inode,
                    cookie=0,
                    execution=measured.execution,
                )
                with pytest.raises(AttestationError) as caught:
                    await check.check(attestation)
                measured.process.close()
            finally:
                os.kill(child, signal.SIGKILL)
        check.close()
    assert caught.value.reason is Reason.SOCKET_SHARED
    assert str(parent.pid) in caught.value.message


@pytest.mark.parametrize(
    ("holdings", "reasons"),
    [
        (Holdings(hidden={77: frozenset({1000})}), [Reason.HOLDERS_UNKNOWN, None]),
        (Holdings(in_flight={5: frozenset({1000})}), [Reason.SOCKET_SHARED, None]),
        (Holdings(in_flight={5: frozenset({3000})}, hidden={77: frozenset({3000})}), [None, None]),
        (Holdings(missed=frozenset({1000})), [Reason.HOLDERS_UNKNOWN, None]),
        (Holdings(missed=frozenset({0})), [Reason.HOLDERS_UNKNOWN, Reason.HOLDERS_UNKNOWN]),
        (Holdings(is_complete=False), [Reason.HOLDERS_UNKNOWN, Reason.HOLDERS_UNKNOWN]),
    ],
    ids=[
        "a hidden process",
        "a parked descriptor",
        "of other users",
        "processes come and go",
        "root's processes come and go",
        "an incomplete pass",
    ],
)
async def test_what_cant_be_told_concerns_the_sockets_of_its_users_only(
    holdings: Holdings, reasons: list[Reason | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holder_check, "_FLIGHT_WAIT_S", 0.0)
    monkeypatch.setattr(Passes, "find", lambda *_: holdings)

    def attestation(uid: int) -> Attestation:
        process = ProcessFacts(pid=1, start_time=0, uid=uid, path="/x")
        program = Program(digest="0" * 64)
        return Attestation(program=program, process=process, inode=1, cookie=0, execution=ELSEWHERE, uid=uid)

    with ThreadPoolExecutor(2) as workers:
        check = HolderCheck(
            Measuring(Executables(workers, max_bytes=1), workers), workers, own_pid=0, patience=Patience(30)
        )
        answers = await asyncio.gather(*(check.check(attestation(uid)) for uid in (1000, 2000)), return_exceptions=True)
        check.close()
    assert [getattr(answer, "reason", None) for answer in answers] == reasons


async def test_where_a_pass_couldnt_tell_the_next_one_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holder_check, "_FLIGHT_WAIT_S", 0.0)
    passes = [Holdings(), Holdings(missed=frozenset({0})), Holdings(is_complete=False)]
    monkeypatch.setattr(Passes, "find", lambda *_: passes.pop())
    process = ProcessFacts(pid=1, start_time=0, uid=0, path="/x")
    attestation = Attestation(program=Program(digest="0" * 64), process=process, inode=1, cookie=0, execution=ELSEWHERE)
    with ThreadPoolExecutor(2) as workers:
        check = HolderCheck(
            Measuring(Executables(workers, max_bytes=1), workers), workers, own_pid=0, patience=Patience(30)
        )
        await check.check(attestation)
        check.close()
    assert not passes


async def test_who_waits_with_its_first_byte_doesnt_wait_for_the_rest_between_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Passes, "find", lambda *_: Holdings(took_s=0.01))
    process = ProcessFacts(pid=1, start_time=0, uid=0, path="/x")
    attestation = Attestation(program=Program(digest="0" * 64), process=process, inode=1, cookie=0, execution=ELSEWHERE)
    with ThreadPoolExecutor(2) as workers:
        check = HolderCheck(
            Measuring(Executables(workers, max_bytes=1), workers), workers, own_pid=0, patience=Patience(30)
        )
        monkeypatch.setattr(holder_check, "_REST_FACTOR", 1_000_000)
        monkeypatch.setattr(holder_check, "_MAX_REST_S", 1_000_000.0)
        await check.check(attestation)
        resting = asyncio.ensure_future(check.check(attestation))
        await asyncio.sleep(0)
        await check.check(attestation, is_urgent=True)
        await resting
        check.close()


def _anybody(execution: Execution = ELSEWHERE) -> Attestation:
    process = ProcessFacts(pid=1, start_time=0, uid=0, path="/x")
    return Attestation(program=Program(digest="0" * 64), process=process, inode=1, cookie=0, execution=execution)


async def test_a_search_that_stands_still_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    is_over = threading.Event()

    def find(*_: object) -> Holdings:
        is_over.wait(30)
        return Holdings()

    monkeypatch.setattr(Passes, "find", find)
    with ThreadPoolExecutor(2) as workers:
        measuring = Measuring(Executables(workers, max_bytes=1), workers)
        check = HolderCheck(measuring, workers, own_pid=0, patience=Patience(0.05))
        with pytest.raises(AttestationError, match="took too long") as raised:
            await check.clear(_anybody())
        is_over.set()
        check.close()
    assert raised.value.reason is Reason.HOLDERS_UNKNOWN


async def test_a_pass_that_hangs_is_given_up_though_other_processes_are_cleared_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patience_module, "_MOST", 1_000_000)
    is_over = threading.Event()

    def find(*_: object) -> Holdings:
        is_over.wait(60)
        return Holdings()

    async def catch_up(*_: object) -> None:
        await asyncio.sleep(0.001)

    monkeypatch.setattr(Passes, "find", find)
    hangs, known = _anybody(), _anybody(Execution(2, 0, 0, 0, 0, 0, 0))
    monkeypatch.setattr(Clearance, "is_cleared", lambda _, execution: execution is known.execution)
    monkeypatch.setattr(Clearance, "is_clear", lambda _, attestation: attestation is known)
    monkeypatch.setattr(Clearance, "catch_up", catch_up)
    with ThreadPoolExecutor(2) as workers:
        measuring = Measuring(Executables(workers, max_bytes=1), workers)
        check = HolderCheck(measuring, workers, own_pid=0, patience=Patience(0.5))

        async def clear_others() -> None:
            while True:
                await check.clear(known)

        others = asyncio.create_task(clear_others())
        try:
            async with asyncio.timeout(60):
                with pytest.raises(AttestationError, match="took too long"):
                    await check.clear(hangs)
        finally:
            is_over.set()
            others.cancel()
            check.close()


async def test_a_search_of_many_passes_is_waited_for_as_long_as_they_end(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counted(Patience):
        count = 0

        def note_progress(self) -> None:
            self.count += 1
            super().note_progress()

    monkeypatch.setattr(holder_check, "_FLIGHT_WAIT_S", 0.0)
    passes = [Holdings(), Holdings(missed=frozenset({0})), Holdings(is_complete=False)]
    monkeypatch.setattr(Passes, "find", lambda *_: passes.pop())
    patience = Counted(30)
    with ThreadPoolExecutor(2) as workers:
        measuring = Measuring(Executables(workers, max_bytes=1), workers)
        check = HolderCheck(measuring, workers, own_pid=0, patience=patience)
        await check.clear(_anybody())
        check.close()
    assert patience.count == 3
