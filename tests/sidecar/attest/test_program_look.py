"""Looking again at attested processes: a late exec is seen, whatever file it executes."""

from __future__ import annotations

import ctypes
import gc
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from shared.model.policy.reasons import Reason
from sidecar.attest import program_look
from sidecar.attest.executable import Executables
from sidecar.attest.facts import Attestation, AttestationError
from sidecar.attest.measure import Measuring
from sidecar.attest.process import Process
from sidecar.attest.program_look import ProgramLooks
from sidecar.native.engine import load
from tests.sidecar.attest.processes import PYTHON, WAIT, hear, running, tell
from tests.sidecar.native.scripted_tls import ScriptedTls

_SAME_FILE = f"os.execv({PYTHON!r}, [{PYTHON!r}, '-c', 'print(1, flush=True); input()'])\n"
_ANOTHER_FILE = "os.execv('/bin/sh', ['sh', '-c', 'echo 1; read x'])\n"
_NOTHING = "print(1, flush=True)\nsys.stdin.readline()\n"
_THE_FIRST_THREAD_ENDS = """
def run():
    while open('/proc/self/stat').read().rsplit(')', 1)[1].split()[0] != 'Z':
        time.sleep(0.001)
    print(1, flush=True)
    sys.stdin.readline()
    if sys.argv[1:] == ['exec']:
        os.execv('/bin/sh', ['sh', '-c', 'echo 2; read x'])
    print(2, flush=True)
    sys.stdin.readline()
threading.Thread(target=run).start()
print('ready', flush=True)
sys.stdin.readline()
ctypes.CDLL(None).syscall(60, 0)
"""
# prctl(2): PR_SET_MM, PR_SET_MM_MAP with the addresses of ``stat``, the arguments elsewhere, no auxv and no executable.
_MOVES_ITS_TITLE = """
import ctypes, struct, sys
print('ready', flush=True)
sys.stdin.readline()
stat = open('/proc/self/stat').read().rsplit(')', 1)[1].split()
fields = [0, *(int(part) for part in stat[1:])]
title = ctypes.create_string_buffer(b'worker 1')
start = ctypes.addressof(title)
addresses = struct.pack('<12QII', fields[23], fields[24], fields[42], fields[43], fields[44], fields[44], fields[25],
                        start, start + 9, fields[47], fields[48], 0, 0, 0xffffffff)
print(ctypes.CDLL(None).prctl(35, 14, addresses, len(addresses), 0), flush=True)
sys.stdin.readline()
"""


async def attest(pid: int) -> Attestation:
    with ThreadPoolExecutor(2) as workers:
        measured = await Measuring(Executables(workers, max_bytes=1 << 30), workers).measure(partial(Process, pid), 0)
    measured.process.close()
    return Attestation(
        program=measured.program, process=measured.process.facts, inode=1, cookie=1, execution=measured.execution
    )


def look_at(attestation: Attestation) -> list[Reason]:
    return [error.reason for _, error in ProgramLooks().look_again([attestation])]


def count_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize(
    ("then", "seen"),
    [(_SAME_FILE, [Reason.PROGRAM_CHANGED]), (_ANOTHER_FILE, [Reason.PROGRAM_CHANGED]), (_NOTHING, [])],
    ids=["the same file", "another file", "no exec"],
)
async def test_an_exec_after_the_attestation_is_seen(then: str, seen: list[Reason]) -> None:
    with running("import os, sys\n" + WAIT + then) as child:
        attestation = await attest(child.pid)
        assert look_at(attestation) == []
        tell(child)
        assert hear(child) == "1"
        assert look_at(attestation) == seen


async def test_a_process_that_has_ended_isnt_one_that_changed() -> None:
    with running("import sys\n" + WAIT) as child:
        attestation = await attest(child.pid)
        assert look_at(attestation) == []
    assert look_at(attestation) == [Reason.PROCESS_VANISHED]


async def test_a_look_counts_for_50_ms_and_one_that_fails_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    looks, now = ProgramLooks(), 1_000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with running("import os, sys\n" + WAIT + _ANOTHER_FILE) as child:
        attestation = await attest(child.pid)
        assert looks.look_at(attestation) == now + 0.05
        tell(child)
        assert hear(child) == "1"
        now += 0.04
        assert looks.look_at(attestation) == 1_000.05
        now += 0.02
        for _ in range(2):
            with pytest.raises(AttestationError) as caught:
                looks.look_at(attestation)
            assert caught.value.reason is Reason.PROGRAM_CHANGED


@pytest.mark.parametrize(
    ("argument", "seen"), [("", []), ("exec", [Reason.PROGRAM_CHANGED])], ids=["stays", "executes"]
)
async def test_an_exec_of_another_thread_after_the_first_one_has_ended_is_seen(
    argument: str, seen: list[Reason]
) -> None:
    with running("import ctypes, os, sys, threading, time\n" + _THE_FIRST_THREAD_ENDS, argument) as child:
        attestation = await attest(child.pid)
        tell(child)
        assert hear(child) == "1"
        assert look_at(attestation) == []
        tell(child)
        assert hear(child) == "2"
        assert look_at(attestation) == seen


@pytest.mark.parametrize("then", [_SAME_FILE, _ANOTHER_FILE], ids=["the same file", "another file"])
@pytest.mark.skipif(load() is None, reason="the native engine isn't built")
async def test_a_movers_thread_sees_an_exec_by_its_own_look(then: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.sidecar.native.test_mover import Stay

    monkeypatch.setattr(program_look, "MAX_AGE_S", 0.0)
    looks, stay = ProgramLooks(), Stay(ScriptedTls())
    with closing(stay), running("import os, sys\n" + WAIT + then) as child:
        attestation = await attest(child.pid)
        proof = looks.find_proof(attestation.execution)
        assert looks.find_proof(attestation.execution) is proof
        stay.app.send(b"question")
        number = stay.lend(proof, room=5)
        assert stay.wait() == [number]
        assert stay.mover.recall(number)[0] == len(b"question")
        tell(child)
        assert hear(child) == "1"
        stay.app.send(b"question")
        number = stay.lend(proof)
        assert stay.wait() == [number]
        assert stay.mover.recall(number) == (0, 0, 0, 0, None, None)
        assert list(looks.look_again([])) == []
        assert looks.find_proof(attestation.execution) is not proof


async def test_descriptors_go_with_the_last_connection_of_the_process() -> None:
    with running("import sys\n" + WAIT) as child:
        gc.collect()  # What tests before have left isn't closed in between.
        before = count_descriptors()
        attestation = await attest(child.pid)
        assert look_at(attestation) == []
        assert count_descriptors() == before + 2
        del attestation
        assert count_descriptors() == before


async def test_an_exec_of_the_same_file_at_the_same_addresses_is_seen() -> None:
    """Without randomised addresses, with arguments of one length: nothing in the image differs but the memory."""
    code = "import os, sys\nprint('ready' if sys.argv[1] == 'a' else '1', flush=True)\nsys.stdin.readline()\n"
    code += f"os.execv({PYTHON!r}, [{PYTHON!r}, '-c', sys.orig_argv[2], 'b'])\n"
    fixed = partial(ctypes.CDLL(None).personality, 0x0040000)  # ADDR_NO_RANDOMIZE, linux/personality.h
    with running(code, "a", preexec_fn=fixed) as child:
        before = await attest(child.pid)
        tell(child)
        assert hear(child) == "1"
        after = await attest(child.pid)
        assert look_at(after) == []
        assert look_at(before) == [Reason.PROGRAM_CHANGED]
    assert before.execution.is_fork_of(after.execution)


async def test_a_process_that_moves_its_title_hasnt_executed_another_program() -> None:
    """``setproctitle`` by PR_SET_MM: any process may tell the kernel that its arguments are elsewhere."""
    with running(_MOVES_ITS_TITLE) as child:
        attestation = await attest(child.pid)
        tell(child)
        assert hear(child) == "0"
        assert Path(f"/proc/{child.pid}/cmdline").read_bytes() == b"worker 1\0"
        assert look_at(attestation) == []


async def test_a_pass_that_takes_too_long_goes_on_at_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pass looks at one process at least, so that every process has its turn."""
    monkeypatch.setattr(program_look, "_MAX_PASS_S", -1.0)
    code = "import os, sys\n" + WAIT
    looks = ProgramLooks()
    with running(code) as first, running(code + _ANOTHER_FILE) as second:
        attestations = [await attest(first.pid), await attest(second.pid)]
        tell(second)
        assert hear(second) == "1"
        found = [[error.reason for _, error in looks.look_again(attestations)] for _ in range(2)]
    assert found == [[], [Reason.PROGRAM_CHANGED]]
