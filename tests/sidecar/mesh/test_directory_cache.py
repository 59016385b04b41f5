"""The directory: one question for many waiters, changes, bounds."""

from __future__ import annotations

import asyncio

import pytest

from shared.model.errors import IdentityError, UnavailableError
from shared.model.identity.identity import Workload
from shared.model.wire.messages import DirectoryEntry, FromSidecar, Lookup
from sidecar.mesh import directory_cache as module
from sidecar.mesh.directory_cache import DirectoryCache, listed_workload
from tests.sidecar.little_ca import ask_into


async def test_many_waiters_ask_once_and_later_changes_count() -> None:
    sent: list[FromSidecar] = []
    directory = DirectoryCache(ask=ask_into(sent), timeout_s=1)
    waiting = [asyncio.create_task(directory.look_up("198.18.0.1")) for _ in range(5)]
    await asyncio.sleep(0)
    assert sent == [Lookup(address="198.18.0.1")]
    directory.install(DirectoryEntry(address="198.18.0.1", namespace="shop", service_account="db"))
    assert {entry.namespace for entry in await asyncio.gather(*waiting)} == {"shop"}
    directory.install(DirectoryEntry(address="198.18.0.1"))
    known = directory.get("198.18.0.1")
    assert known is not None
    assert known.namespace == ""
    assert directory.lookups() == [Lookup(address="198.18.0.1")]


async def test_silence_is_an_error_and_the_next_waiter_asks_again() -> None:
    sent: list[FromSidecar] = []
    directory = DirectoryCache(ask=ask_into(sent), timeout_s=0.02)
    for _ in range(2):
        with pytest.raises(UnavailableError):
            await directory.look_up("198.18.0.1")
    assert len(sent) == 2


async def test_it_forgets_the_least_recently_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ENTRIES", 2)
    directory = DirectoryCache(ask=ask_into([]), timeout_s=1)
    for address in ("1.0.0.1", "1.0.0.2"):
        task = asyncio.create_task(directory.look_up(address))
        await asyncio.sleep(0)
        directory.install(DirectoryEntry(address=address))
        await task
    await directory.look_up("1.0.0.1")
    task = asyncio.create_task(directory.look_up("1.0.0.3"))
    await asyncio.sleep(0)
    directory.install(DirectoryEntry(address="1.0.0.3"))
    await task
    assert directory.get("1.0.0.2") is None
    assert directory.get("1.0.0.1") is not None
    directory.install(DirectoryEntry(address="1.0.0.9"))
    assert directory.get("1.0.0.9") is None


def test_a_listed_workload_is_the_entrys_and_an_entry_that_lists_nobody_has_none() -> None:
    entry = DirectoryEntry(address="198.18.0.1", namespace="shop", service_account="db")
    assert listed_workload(entry) == Workload(namespace="shop", service_account="db")
    moved = DirectoryEntry(address="198.18.0.1", namespace="shop", service_account="cache")
    assert listed_workload(moved) == Workload(namespace="shop", service_account="cache")
    with pytest.raises(IdentityError):
        listed_workload(DirectoryEntry(address="198.18.0.1"))
