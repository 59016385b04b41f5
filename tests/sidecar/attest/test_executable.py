"""Hashing through descriptors, and what its cache may keep."""

import asyncio
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shared.model.policy.reasons import Reason
from sidecar.attest.executable import Executables, hash_file
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
