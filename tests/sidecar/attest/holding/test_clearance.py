"""Whose sockets need no pass of their own."""

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial

import pytest

from shared.model.identity.program import Program
from sidecar.attest.facts import Attestation, ProcessFacts
from sidecar.attest.holding import clearance as module
from sidecar.attest.holding.clearance import Clearance
from sidecar.attest.holding.glance import read_execution
from tests.sidecar.attest.processes import WAIT, running


@pytest.fixture
def clearance(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clearance]:
    monkeypatch.setattr(module, "_MAX_NEW_TASKS", 1_000_000)  # Whatever else this machine does.
    monkeypatch.setattr(module, "_MAX_NEW_DESCRIPTORS", 1_000_000)
    made = Clearance(own_pid=0)
    yield made
    made.close()


read_own = cache(partial(read_execution, os.getpid()))


def attest_own(one: socket.socket) -> Attestation:
    """Our own socket, as a sidecar beside us would attest it."""
    execution = read_own()
    assert execution is not None
    return Attestation(
        program=Program(digest="0" * 64),
        process=ProcessFacts(pid=os.getpid(), start_time=execution.start_time, uid=0, path="/x"),
        inode=os.fstat(one.fileno()).st_ino,
        cookie=0,
        execution=execution,
    )


def clear(clearance: Clearance, attestation: Attestation) -> None:
    clearance.note(clearance.begin(), [attestation.execution])


def test_nobody_is_clear_before_a_pass(clearance: Clearance) -> None:
    with socket.socket() as one:
        attestation = attest_own(one)
        assert not clearance.is_clear(attestation)
        clear(clearance, attestation)
        assert clearance.is_clear(attestation)
        clearance.forget(attestation.execution)
        assert not clearance.is_clear(attestation)


def test_a_clearance_lasts_ten_seconds(clearance: Clearance, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as one:
        attestation = attest_own(one)
        clear(clearance, attestation)
        monkeypatch.setattr(module, "_LIFE_S", 0.0)
        assert not clearance.is_clear(attestation)


def watch(descriptor: int) -> Callable[[], bool]:
    """Tell whether a descriptor is still open for the same file: how many there are says nothing about these."""

    def identify() -> tuple[int, int]:
        status = os.fstat(descriptor)
        return status.st_dev, status.st_ino

    opened = identify()

    def is_open() -> bool:
        try:
            return identify() == opened
        except OSError:
            return False

    return is_open


def test_processes_that_have_ended_keep_no_descriptors_once_their_clearance_is_over(
    clearance: Clearance, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("sidecar.attest.holding.clearance.time.monotonic", lambda: now)
    are_open: list[Callable[[], bool]] = []
    for _ in range(3):
        with running(WAIT) as process:
            execution = read_execution(process.pid)
        assert execution is not None
        assert execution.memory is not None
        are_open.append(watch(execution.memory.directory))
        clearance.note(clearance.begin(), [execution])
        now += 8
        del execution
    assert [is_open() for is_open in are_open] == [False, True, True], "the first one's are closed"
    now += 11
    clearance.note(clearance.begin(), [])
    assert [is_open() for is_open in are_open] == [False, False, False]


def test_a_new_process_counts_if_it_holds_the_socket_and_is_no_fork(clearance: Clearance) -> None:
    with socket.socket() as held, socket.socket() as free:
        attestations = [attest_own(held), attest_own(free)]
        clear(clearance, attestations[0])
        with running("import sys\n" + WAIT, pass_fds=(held.fileno(),)):
            assert [clearance.is_clear(each) for each in attestations] == [False, True]
            clear(clearance, attestations[0])  # A pass that began after the child came has seen it.
            assert clearance.is_clear(attestations[0])


def test_too_many_new_tasks_are_left_to_the_next_pass(clearance: Clearance, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as one:
        attestation = attest_own(one)
        clear(clearance, attestation)
        monkeypatch.setattr(module, "_MAX_NEW_TASKS", 0)
        with running("import sys\n" + WAIT):
            assert not clearance.is_clear(attestation)
        monkeypatch.setattr(module, "_MAX_NEW_TASKS", 1_000_000)
        assert not clearance.is_clear(attestation)
        assert clearance.is_cleared(attestation.execution)
        clear(clearance, attestation)
        assert clearance.is_clear(attestation)


def test_too_many_new_descriptors_are_left_to_the_next_pass(
    clearance: Clearance, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as one:
        attestation = attest_own(one)
        clear(clearance, attestation)
        monkeypatch.setattr(module, "_MAX_NEW_DESCRIPTORS", 2)
        with running("import sys\n" + WAIT):
            assert not clearance.is_clear(attestation)


async def test_what_is_too_much_for_the_loop_is_looked_at_in_a_worker(
    clearance: Clearance, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as held, socket.socket() as free, ThreadPoolExecutor(1) as workers:
        attestations = [attest_own(held), attest_own(free)]
        clear(clearance, attestations[0])
        monkeypatch.setattr(module, "_MAX_NEW_DESCRIPTORS", 2)
        monkeypatch.setattr(module, "_MAX_TASKS", 1_000_000)
        monkeypatch.setattr(module, "_MAX_DESCRIPTORS", 1_000_000)
        with running("import sys\n" + WAIT, pass_fds=(held.fileno(),)):
            assert [clearance.is_clear(each) for each in attestations] == [False, False]
            await clearance.catch_up(workers)
            monkeypatch.setattr(module, "_MAX_NEW_DESCRIPTORS", 1_000_000)
            assert [clearance.is_clear(each) for each in attestations] == [False, True]


async def test_a_pass_that_ends_during_the_look_of_a_worker_counts_instead(clearance: Clearance) -> None:
    with socket.socket() as one, ThreadPoolExecutor(1) as workers:
        attestation = attest_own(one)
        clear(clearance, attestation)
        catching = asyncio.ensure_future(clearance.catch_up(workers))
        await asyncio.sleep(0)
        assert not clearance.is_clear(attestation)
        clear(clearance, attestation)
        await catching
        assert clearance.is_clear(attestation)
