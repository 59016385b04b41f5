"""Looking again at attested processes: a late exec is seen, whatever file it executes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import pytest

from shared.model.policy.reasons import Reason
from sidecar.attest import program_look
from sidecar.attest.executable import Executables
from sidecar.attest.facts import Attestation
from sidecar.attest.measure import Measuring
from sidecar.attest.process import Process
from sidecar.attest.program_look import ProgramLooks
from tests.sidecar.attest.processes import PYTHON, WAIT, hear, running, tell

_SAME_FILE = f"os.execv({PYTHON!r}, [{PYTHON!r}, '-c', 'print(1, flush=True); input()'])\n"
_ANOTHER_FILE = "os.execv('/bin/sh', ['sh', '-c', 'echo 1; read x'])\n"
_NOTHING = "print(1, flush=True)\nsys.stdin.readline()\n"


async def attest(pid: int) -> Attestation:
    with ThreadPoolExecutor(2) as workers:
        measured = await Measuring(Executables(workers, max_bytes=1 << 30), workers).measure(partial(Process, pid), 0)
    measured.process.close()
    return Attestation(
        program=measured.program, process=measured.process.facts, inode=1, cookie=1, execution=measured.execution
    )


@contextmanager
def looking() -> Iterator[ProgramLooks]:
    looks = ProgramLooks()
    try:
        yield looks
    finally:
        looks.close()


def count_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize(
    ("then", "seen"),
    [(_SAME_FILE, [Reason.PROGRAM_CHANGED]), (_ANOTHER_FILE, [Reason.PROGRAM_CHANGED]), (_NOTHING, [])],
    ids=["the same file", "another file", "no exec"],
)
async def test_an_exec_after_the_attestation_is_seen(then: str, seen: list[Reason]) -> None:
    with running("import os, sys\n" + WAIT + then) as child, looking() as looks:
        attestation = await attest(child.pid)
        assert list(looks.look_again([attestation])) == []
        tell(child)
        assert hear(child) == "1"
        assert [error.reason for _, error in looks.look_again([attestation])] == seen


async def test_a_process_that_has_ended_isnt_one_that_changed() -> None:
    with looking() as looks:
        with running("import sys\n" + WAIT) as child:
            attestation = await attest(child.pid)
            assert list(looks.look_again([attestation])) == []
        assert list(looks.look_again([attestation])) == []


async def test_what_has_no_connections_any_more_keeps_no_descriptors() -> None:
    with running("import sys\n" + WAIT) as child, looking() as looks:
        attestation = await attest(child.pid)
        before = count_descriptors()
        assert list(looks.look_again([attestation])) == []
        assert count_descriptors() == before + 2
        assert list(looks.look_again([])) == []
        assert count_descriptors() == before


async def test_beyond_the_bound_a_look_keeps_nothing_and_sees_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program_look, "_MAX_KEPT", 0)
    with running("import os, sys\n" + WAIT + _ANOTHER_FILE) as child, looking() as looks:
        attestation = await attest(child.pid)
        before = count_descriptors()
        assert list(looks.look_again([attestation])) == []
        assert count_descriptors() == before
        tell(child)
        assert hear(child) == "1"
        assert [error.reason for _, error in looks.look_again([attestation])] == [Reason.PROGRAM_CHANGED]


async def test_a_pass_that_takes_too_long_goes_on_at_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pass looks at one process at least, so that every process has its turn."""
    monkeypatch.setattr(program_look, "_MAX_PASS_S", -1.0)
    code = "import os, sys\n" + WAIT
    with running(code) as first, running(code + _ANOTHER_FILE) as second, looking() as looks:
        attestations = [await attest(first.pid), await attest(second.pid)]
        tell(second)
        assert hear(second) == "1"
        found = [[error.reason for _, error in looks.look_again(attestations)] for _ in range(4)]
    assert found == [[], [Reason.PROGRAM_CHANGED]] * 2
