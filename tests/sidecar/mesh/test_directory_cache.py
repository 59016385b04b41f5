"""The directory: one question for many waiters, changes, bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from shared.model.errors import IdentityError, UnavailableError
from shared.model.identity.identity import Workload
from shared.model.wire.messages import DirectoryEntry, FromSidecar, Lookup
from sidecar.mesh import directory_cache as module
from sidecar.mesh.directory_cache import MAX_CONFIRMING, DirectoryCache, listed_workload
from tests.sidecar.little_ca import ask_into


def make(
    sent: list[FromSidecar], *, connected: Callable[[], bool] = lambda: True, timeout_s: float = 30
) -> DirectoryCache:
    return DirectoryCache(ask=ask_into(sent), send=sent.append, is_connected=connected, timeout_s=timeout_s)


async def learn(directory: DirectoryCache, *addresses: str, namespace: str = "") -> None:
    for address in addresses:
        task = asyncio.create_task(directory.look_up(address))
        await asyncio.sleep(0)
        directory.install(
            DirectoryEntry(address=address, namespace=namespace, service_account="db" if namespace else "")
        )
        await task


async def test_many_waiters_ask_once_and_later_changes_count() -> None:
    sent: list[FromSidecar] = []
    directory = make(sent)
    waiting = [asyncio.create_task(directory.look_up("198.18.0.1")) for _ in range(5)]
    await asyncio.sleep(0)
    assert sent == [Lookup(address="198.18.0.1")]
    directory.install(DirectoryEntry(address="198.18.0.1", namespace="shop", service_account="db"))
    assert {entry.namespace for entry in await asyncio.gather(*waiting)} == {"shop"}
    directory.install(DirectoryEntry(address="198.18.0.1"))
    known = directory.get("198.18.0.1")
    assert known is not None
    assert known.namespace == ""


async def test_silence_is_an_error_and_the_next_waiter_asks_again() -> None:
    sent: list[FromSidecar] = []
    directory = make(sent, timeout_s=0.02)
    for _ in range(2):
        with pytest.raises(UnavailableError):
            await directory.look_up("198.18.0.1")
    assert len(sent) == 2


@pytest.mark.parametrize("is_connected", [False, True])
async def test_the_ca_is_silent_where_it_didnt_answer_lately_and_there_is_no_stream(*, is_connected: bool) -> None:
    directory = make([], connected=lambda: is_connected, timeout_s=0.02)
    assert not directory.is_silent
    with pytest.raises(UnavailableError):
        await directory.look_up("198.18.0.1")
    assert directory.is_silent is not is_connected


async def test_it_forgets_the_least_recently_used_and_a_change_is_no_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ENTRIES", 3)
    directory = make([])
    await learn(directory, "1.0.0.1", "1.0.0.2", "1.0.0.3")
    assert directory.get("1.0.0.1") is not None  # By `get`, as the stories do; 1.0.0.2 is the oldest now.
    directory.install(DirectoryEntry(address="1.0.0.2", namespace="shop", service_account="db"))
    await learn(directory, "1.0.0.4")
    assert directory.get("1.0.0.2") is None
    assert all(directory.get(each) is not None for each in ("1.0.0.1", "1.0.0.3", "1.0.0.4"))
    directory.install(DirectoryEntry(address="1.0.0.9"))
    assert directory.get("1.0.0.9") is None
    assert len(directory) == 3


async def test_a_new_stream_is_asked_for_everything_known_a_window_at_a_time() -> None:
    sent: list[FromSidecar] = []
    directory = make(sent)
    addresses = [f"198.18.{number >> 8}.{number & 255}" for number in range(6000)]
    await learn(directory, *addresses)
    sent.clear()
    directory.confirm_all()
    assert len(sent) == MAX_CONFIRMING
    answered = 0
    while answered < len(sent):
        question = sent[answered]
        assert isinstance(question, Lookup)
        directory.install(DirectoryEntry(address=question.address))
        answered += 1
        assert len(sent) - answered <= MAX_CONFIRMING
    assert {question.address for question in sent if isinstance(question, Lookup)} == set(addresses)
    assert directory.unconfirmed == 0


async def test_an_entry_that_lists_nobody_isnt_used_on_a_new_stream_before_the_ca_has_confirmed_it() -> None:
    """It could lead to plaintext to a member that joined meanwhile; a member's entry is proven by its certificate."""
    sent: list[FromSidecar] = []
    is_connected = True
    directory = make(sent, connected=lambda: is_connected)
    await learn(directory, "198.18.0.1")
    await learn(directory, "198.18.0.2", namespace="shop")
    directory.confirm_all()
    assert directory.get("198.18.0.1") is None
    assert directory.get("198.18.0.2") is not None
    waiting = asyncio.create_task(directory.look_up("198.18.0.1"))
    await asyncio.sleep(0)
    directory.install(DirectoryEntry(address="198.18.0.1", namespace="shop", service_account="db"))
    assert (await waiting).namespace == "shop"
    directory.confirm_all()
    directory.install(DirectoryEntry(address="198.18.0.1"))
    assert directory.get("198.18.0.1") is not None
    directory.confirm_all()
    is_connected = False  # An outage: what is known is used, as ever.
    assert directory.get("198.18.0.1") is not None


async def test_open_questions_are_asked_again_too_and_a_stream_that_is_gone_again_ends_it() -> None:
    sent: list[FromSidecar] = []
    directory = make(sent)
    waiting = asyncio.create_task(directory.look_up("198.18.0.1"))
    await asyncio.sleep(0)
    directory.confirm_all()
    assert sent == [Lookup(address="198.18.0.1")] * 2
    directory.install(DirectoryEntry(address="198.18.0.1"))
    await waiting

    def fail(_: FromSidecar) -> None:
        raise UnavailableError("ordered by the test")

    broken = DirectoryCache(ask=ask_into([]), send=fail, is_connected=lambda: True, timeout_s=30)
    await learn(broken, "198.18.0.1", "198.18.0.2")
    broken.confirm_all()
    assert broken.unconfirmed == 2


def test_a_listed_workload_is_the_entrys_and_an_entry_that_lists_nobody_has_none() -> None:
    entry = DirectoryEntry(address="198.18.0.1", namespace="shop", service_account="db")
    assert listed_workload(entry) == Workload(namespace="shop", service_account="db")
    moved = DirectoryEntry(address="198.18.0.1", namespace="shop", service_account="cache")
    assert listed_workload(moved) == Workload(namespace="shop", service_account="cache")
    with pytest.raises(IdentityError):
        listed_workload(DirectoryEntry(address="198.18.0.1"))


async def test_an_address_asked_for_ahead_is_known_once_the_ca_has_answered() -> None:
    sent: list[FromSidecar] = []
    directory = make(sent)
    for _ in range(2):
        directory.ask_ahead("198.18.0.1")
    assert sent == [Lookup(address="198.18.0.1")]
    assert directory.get("198.18.0.1") is None
    directory.install(DirectoryEntry(address="198.18.0.1", namespace="shop", service_account="db"))
    directory.install(DirectoryEntry(address="198.18.0.2", namespace="shop", service_account="db"))
    assert directory.get("198.18.0.1") is not None
    assert directory.get("198.18.0.2") is None, "nothing asked for it"
    for number in range(2 * MAX_CONFIRMING):
        directory.ask_ahead(f"198.18.{1 + number // 256}.{number % 256}")
    assert len(sent) == 1 + MAX_CONFIRMING
    directory.confirm_all()
    directory.ask_ahead("198.18.9.9")
    assert sent[-1] == Lookup(address="198.18.9.9"), "a new stream answers nothing that was asked before"
