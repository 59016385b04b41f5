"""Which secret is given out, to whom, for how long; how many are kept of whom; and who waits for one that is near."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterator

import pytest

from sidecar.tls import kept_secrets
from sidecar.tls.kept_secrets import MAX_AGE_S, MAX_OF_PEER, MAX_OFFERS, Origin, Secret, Secrets


def keep(secrets: Secrets, binding: Hashable, *names: bytes, proven_at: float = 0.0, whose: Hashable = None) -> None:
    origin = Origin(chain=(b"leaf",), proven_at=proven_at, kept_at=proven_at)
    secrets.keep(binding, {name: b"key of " + name for name in names}, origin, whose=whose)


def take_names(secrets: Secrets, binding: Hashable) -> Iterator[bytes]:
    while (secret := secrets.take(binding)) is not None:
        yield secret.name


def number(count: int, prefix: str = "") -> list[bytes]:
    return [f"{prefix}{each}".encode() for each in range(count)]


def test_the_newest_is_given_out_first_and_each_once() -> None:
    now = 0.0
    secrets = Secrets(read_clock=lambda: now)
    for name in (b"a", b"b", b"c"):
        keep(secrets, "db", name, proven_at=now)
        now += 5.0
    assert secrets.take("cache") is None
    assert list(take_names(secrets, "db")) == [b"c", b"b", b"a"]
    assert len(secrets) == 0


def test_what_the_peer_may_not_have_kept_yet_is_given_out_last_and_the_oldest_of_it_first() -> None:
    now = 0.0
    secrets = Secrets(read_clock=lambda: now)
    keep(secrets, "db", b"a", b"b", proven_at=now)
    now = 5.0
    keep(secrets, "db", b"c", b"d", proven_at=now)
    assert list(take_names(secrets, "db")) == [b"b", b"a", b"c", b"d"]


def test_a_named_one_is_given_out_once_and_for_its_binding_alone() -> None:
    secrets = Secrets(read_clock=lambda: 0.0)
    keep(secrets, "db", b"a", b"b", whose="web")
    assert secrets.find("cache", b"a") is None
    assert secrets.find("db", b"c") is None
    found = secrets.find("db", b"a")
    assert found is not None
    assert (found.name, found.key, found.origin.chain) == (b"a", b"key of a", (b"leaf",))
    assert secrets.find("db", b"a") is None
    assert secrets.take("db") is None  # A responder's aren't offered.
    assert len(secrets) == 1


def test_of_one_peer_the_newest_are_kept_and_a_responder_keeps_more() -> None:
    secrets = Secrets(read_clock=lambda: 0.0)
    keep(secrets, "db", *number(100))
    assert len(secrets) == MAX_OFFERS
    assert secrets.take("db") == Secret(
        name=b"68", key=b"key of 68", origin=Origin(chain=(b"leaf",), proven_at=0.0, kept_at=0.0)
    )
    secrets = Secrets(read_clock=lambda: 0.0)
    keep(secrets, "db", *number(100), whose="web")
    assert len(secrets) == MAX_OF_PEER
    assert secrets.find("db", b"35") is None
    assert secrets.find("db", b"36") is not None


def test_where_there_are_too_many_in_all_they_go_first_who_have_the_most() -> None:
    secrets = Secrets(most=40, read_clock=lambda: 0.0)
    keep(secrets, "db", b"one", b"two", whose="modest")
    for each in range(50):
        keep(secrets, "db", *number(32, f"{each} "), whose=f"greedy {each % 3}")
        assert len(secrets) <= 40
    assert secrets.find("db", b"49 31") is not None
    assert secrets.find("db", b"one") is not None
    assert secrets.find("db", b"two") is not None


def test_a_peer_that_uses_many_ports_pushes_out_its_own() -> None:
    secrets = Secrets(most=200, read_clock=lambda: 0.0)
    modest = number(32, "modest ")
    keep(secrets, 5432, *modest, whose="modest")
    for port in range(300):
        keep(secrets, port, *number(32, f"{port} "), whose="greedy")
        assert len(secrets) == min(200, 32 * (port + 2))
    assert all(secrets.find(5432, name) for name in modest)
    assert secrets.find(299, b"299 31") is not None
    assert secrets.find(0, b"0 31") is None
    assert secrets._counts == {"greedy": 167}


def test_a_crowd_of_peers_has_a_few_each() -> None:
    secrets = Secrets(most=40, read_clock=lambda: 0.0)
    for each in range(100):
        keep(secrets, "db", *number(32, f"{each} "), whose=each)
    assert 20 <= len(secrets) <= 40
    assert len({whose for _, whose in secrets._stocks}) >= 15


def test_what_is_too_old_is_dropped_and_never_given_out() -> None:
    now = 0.0
    secrets = Secrets(read_clock=lambda: now)
    keep(secrets, "db", b"a")
    keep(secrets, "web", b"b", whose="peer")
    keep(secrets, "cache", b"c")
    now = MAX_AGE_S
    assert secrets.take("db") is None
    assert secrets.find("web", b"b") is None
    keep(secrets, "web", b"d", proven_at=now)
    assert len(secrets) == 1


def test_those_of_a_peer_that_has_lost_one_are_dropped() -> None:
    secrets = Secrets(read_clock=lambda: 0.0)
    keep(secrets, "db", b"a", b"b")
    keep(secrets, "cache", b"c")
    secrets.forget("db")
    secrets.forget("unknown")
    assert secrets.take("db") is None
    assert len(secrets) == 1


def test_a_secret_shows_neither_its_key_nor_its_chain() -> None:
    secret = Secret(name=b"n", key=b"secret", origin=Origin(chain=(b"leaf",), proven_at=0.0, kept_at=0.0))
    assert "secret" not in repr(secret)
    assert "leaf" not in repr(secret)


@pytest.fixture
def long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """No wait ends by itself."""
    monkeypatch.setattr(kept_secrets, "_ANOTHER_S", 600.0)
    monkeypatch.setattr(kept_secrets, "_ENDING_S", 600.0)


async def settle(*tasks: asyncio.Task[None]) -> list[bool]:
    """Let each come as far as it can; return which ones have ended."""
    for _ in range(10):
        await asyncio.sleep(0)
    return [task.done() for task in tasks]


def wait_for_another(secrets: Secrets, count: int) -> list[asyncio.Task[None]]:
    return [asyncio.create_task(secrets.wait_for_another("db")) for _ in range(count)]


@pytest.mark.usefixtures("long_waits")
async def test_those_wait_that_find_no_secret_while_the_first_handshake_is_under_way() -> None:
    secrets = Secrets()
    await secrets.wait_for_another("db")  # None is.
    secrets.begin("db", rests_on_secret=False)
    await secrets.wait_for_another("cache")
    waiting = wait_for_another(secrets, 3)
    assert await settle(*waiting) == [False] * 3
    keep(secrets, "db", b"a", b"b", proven_at=secrets.now())
    secrets.end("db", rests_on_secret=False)
    assert await settle(*waiting) == [True, True, False]  # As many as there are secrets.
    await secrets.wait_for_another("db")
    assert (secrets.take("db"), secrets.take("db")).count(None) == 0
    for _ in range(2):
        secrets.begin("db", rests_on_secret=True)
    late = wait_for_another(secrets, 1)
    assert await settle(*waiting, *late) == [True, True, False, False]
    secrets.end("db", rests_on_secret=True)  # It has failed; another one may leave secrets yet.
    assert await settle(*waiting, *late) == [True, True, False, False]
    keep(secrets, "db", b"c", b"d", proven_at=secrets.now())
    secrets.end("db", rests_on_secret=True)
    assert await settle(*waiting, *late) == [True] * 4
    assert not secrets._under_way


@pytest.mark.usefixtures("long_waits")
async def test_when_the_first_handshake_leaves_nothing_all_go_on_and_nobody_waits_for_them() -> None:
    secrets = Secrets()
    secrets.begin("db", rests_on_secret=False)
    waiting = wait_for_another(secrets, 3)
    await settle(*waiting)
    secrets.end("db", rests_on_secret=False)
    assert await settle(*waiting) == [True] * 3
    for _ in range(2):
        secrets.begin("db", rests_on_secret=False)
    await secrets.wait_for_another("db")
    for _ in range(2):
        secrets.end("db", rests_on_secret=False)
    assert not secrets._under_way


async def test_a_wait_for_another_handshake_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_secrets, "_ANOTHER_S", 0.01)
    secrets = Secrets()
    secrets.begin("db", rests_on_secret=False)
    await secrets.wait_for_another("db")
    secrets.end("db", rests_on_secret=False)
    assert not secrets._under_way


@pytest.mark.usefixtures("long_waits")
async def test_who_is_cancelled_while_it_waits_leaves_nothing_behind() -> None:
    secrets = Secrets()
    secrets.begin("db", rests_on_secret=False)
    gone, waiting = wait_for_another(secrets, 2)
    await settle(gone, waiting)
    gone.cancel()
    assert await settle(gone, waiting) == [True, False]
    keep(secrets, "db", b"a", proven_at=secrets.now())
    secrets.end("db", rests_on_secret=False)
    assert await settle(waiting) == [True]
    assert not secrets._under_way


@pytest.mark.usefixtures("long_waits")
async def test_a_name_is_waited_for_until_its_handshake_has_ended() -> None:
    secrets, derived = Secrets(), {b"a": b"1", b"b": b"2"}
    await secrets.wait_until_kept(b"a")  # Nothing is expected.
    waiting = secrets.expect(derived)
    await secrets.wait_until_kept(b"c")
    tasks = [asyncio.create_task(secrets.wait_until_kept(name)) for name in (b"a", b"b")]
    assert await settle(*tasks) == [False, False]
    secrets.end_expecting(derived, waiting)
    assert await settle(*tasks) == [True, True]
    await secrets.wait_until_kept(b"a")
    assert not secrets._expected


async def test_a_wait_for_a_handshakes_end_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_secrets, "_ENDING_S", 0.01)
    secrets = Secrets()
    waiting = secrets.expect({b"a": b"1"})
    await secrets.wait_until_kept(b"a")
    secrets.end_expecting({b"a": b"1"}, waiting)


@pytest.mark.usefixtures("long_waits")
async def test_of_many_unfinished_handshakes_the_newest_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_secrets, "_MAX_EXPECTED", 3)
    secrets = Secrets()
    old, new = {b"a": b"1", b"b": b"2"}, {b"c": b"3", b"d": b"4"}
    first = secrets.expect(old)
    waiting = asyncio.create_task(secrets.wait_until_kept(b"b"))
    assert await settle(waiting) == [False]
    second = secrets.expect(new)
    await secrets.wait_until_kept(b"a")
    secrets.end_expecting(old, first)
    secrets.end_expecting(new, second)
    assert await settle(waiting) == [True]
    assert not secrets._expected
