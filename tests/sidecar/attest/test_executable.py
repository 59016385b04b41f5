"""Hashing through descriptors, and what its cache may keep."""

import asyncio
import hashlib
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from shared.model.policy.reasons import Reason
from sidecar.attest.executable import Executables, Measurement, hash_file
from sidecar.attest.facts import AttestationError
from sidecar.attest.process import FileKey


def test_a_file_is_hashed_and_a_fresh_one_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 600_000)
    with path.open("rb") as file:
        key = FileKey.of(os.fstat(file.fileno()))
        found = hash_file(file.fileno(), key, 1 << 20)
        assert found.digest == hashlib.sha256(b"x" * 600_000).hexdigest()
        assert not found.is_lasting
        with pytest.raises(AttestationError) as large:
            hash_file(file.fileno(), key, 1_000)
        assert large.value.reason is Reason.EXECUTABLE_TOO_LARGE
        path.write_bytes(b"y" * 600_001)
        with pytest.raises(AttestationError) as changed:
            hash_file(file.fileno(), key, 1 << 20)
        assert changed.value.reason is Reason.EXECUTABLE_CHANGED


async def test_one_hashing_serves_everybody_and_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    await asyncio.sleep(0.2)
    with ThreadPoolExecutor(1) as workers, path.open("rb") as file:
        executables = Executables(workers, max_bytes=10, max_entries=1)
        key = FileKey.of(os.fstat(file.fileno()))
        first, second = await asyncio.gather(*(executables.measure(file.fileno(), key) for _ in range(2)))
        assert first is second
        assert executables.get(key) == (first if first.is_lasting else None)


async def test_a_small_file_doesnt_wait_for_large_ones(tmp_path: Path) -> None:
    """More large files than there are workers; each goes on, and each digest is right."""
    with ThreadPoolExecutor(2) as workers, ExitStack() as stack:
        executables = Executables(workers, max_bytes=1 << 30)

        def measure(name: str, size: int) -> asyncio.Task[Measurement]:
            path = tmp_path / name
            path.write_bytes(name.encode())
            os.truncate(path, size)
            file = stack.enter_context(path.open("rb"))
            key = FileKey.of(os.fstat(file.fileno()))
            return asyncio.create_task(executables.measure(file.fileno(), key))

        large = [measure(f"large {number}", 256 << 20) for number in range(3)]
        await asyncio.sleep(0.05)
        small = await measure("small", 100_000)
        assert not any(each.done() for each in large)
        found = [await each for each in large]
    assert small.digest == hashlib.sha256((tmp_path / "small").read_bytes()).hexdigest()
    assert [each.digest for each in found] == [
        hashlib.sha256((tmp_path / f"large {number}").read_bytes()).hexdigest() for number in range(3)
    ]


async def test_a_file_that_fails_leaves_the_others_alone(tmp_path: Path) -> None:
    (tmp_path / "good").write_bytes(b"good")
    with (
        ThreadPoolExecutor(1) as workers,
        (tmp_path / "good").open("rb") as good,
        socket.socket() as bad,
    ):
        executables = Executables(workers, max_bytes=1 << 30)
        keys = [FileKey.of(os.fstat(each.fileno())) for each in (bad, good)]
        outcomes = await asyncio.gather(
            executables.measure(bad.fileno(), keys[0]),
            executables.measure(good.fileno(), keys[1]),
            return_exceptions=True,
        )
    assert isinstance(outcomes[0], AttestationError)
    assert outcomes[0].reason is Reason.EXECUTABLE_UNREADABLE
    assert isinstance(outcomes[1], Measurement)
    assert outcomes[1].digest == hashlib.sha256(b"good").hexdigest()


async def test_workers_that_are_shut_down_leave_nobody_waiting(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with ThreadPoolExecutor(1) as workers, (tmp_path / "file").open("rb") as file:
        executables = Executables(workers, max_bytes=1 << 30)
        workers.shutdown()
        with pytest.raises(RuntimeError, match="shutdown"):
            await executables.measure(file.fileno(), FileKey.of(os.fstat(file.fileno())))
