"""Renewal keys in the store (``ca.store.renewal``): one that counts, those that were used, and their bounds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import func, select

from ca.store.renewal import renewal_keys, tables
from ca.store.renewal.renewal_keys import RenewalRefusedError, RenewalReusedError
from ca.store.store import Store
from shared.model.errors import InputError, UnavailableError
from tests.ca.founded import NOW, opened

LATER = NOW + 3_600


@dataclass(frozen=True, kw_only=True)
class Keys:
    """One sidecar's keys, by short names."""

    store: Store
    instance: str = "one"

    async def begin(self, name: str | None) -> None:
        async with self.store.database.writing() as connection:
            digest = None if name is None else name.encode()
            await self.store.renewal_keys.begin(connection, self.instance, digest, now=NOW)

    async def spend(
        self, name: str, following: str, *, is_answered: bool = True, ended: float = NOW, now: float = LATER
    ) -> None:
        async with self.store.database.writing() as connection:
            await self.store.renewal_keys.spend(
                connection, name.encode(), following.encode(), instance=self.instance, is_answered=is_answered,
                ended=ended, grace_s=7_200, now=now,
            )  # fmt: skip

    async def count(self) -> int:
        async with self.store.database.reading() as connection:
            return int(await connection.scalar(select(func.count()).select_from(tables.renewal_keys)) or 0)


async def test_a_key_is_used_once_and_followed_by_the_next(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        keys = Keys(store=core.store)
        assert not await core.store.renewal_keys.has("one")
        await keys.begin("a")
        assert await core.store.renewal_keys.has("one")
        await keys.spend("a", "b")
        await keys.spend("b", "c", now=LATER + 60)
        for used in ("a", "b"):
            with pytest.raises(RenewalReusedError):
                await keys.spend(used, "x", now=LATER + 120)
        await keys.spend("c", "d", now=LATER + 180)


async def test_the_same_successor_may_be_asked_for_until_the_ca_has_heard_of_it(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        keys = Keys(store=core.store)
        await keys.begin("a")
        for _ in range(2):
            await keys.spend("a", "b", is_answered=False)
        for following, is_answered in (("x", False), ("b", True)):
            with pytest.raises(RenewalReusedError):
                await keys.spend("a", following, is_answered=is_answered)
        await keys.spend("b", "c", is_answered=False, now=LATER + 60)
        with pytest.raises(RenewalReusedError):
            await keys.spend("a", "b", is_answered=False, now=LATER + 60)


async def test_a_lost_answer_too_is_asked_for_within_the_grace_only(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        keys = Keys(store=core.store)
        await keys.begin("a")
        await keys.spend("a", "b", is_answered=False)
        await keys.spend("a", "b", is_answered=False, ended=LATER, now=LATER + 7_200)
        with pytest.raises(RenewalRefusedError) as late:
            await keys.spend("a", "b", is_answered=False, ended=LATER, now=LATER + 7_201)
        assert late.value.reason == "renewal_too_late"
        with pytest.raises(RenewalReusedError):
            await keys.spend("a", "x", is_answered=False, ended=LATER, now=LATER + 7_201)


async def test_a_key_counts_for_its_sidecar_within_the_grace_and_not_at_once(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        keys = Keys(store=core.store)
        await keys.begin("a")
        with pytest.raises(UnavailableError):
            await keys.spend("a", "b", now=NOW + 1)
        with pytest.raises(RenewalRefusedError) as late:
            await keys.spend("a", "b", ended=LATER - 7_201)
        assert late.value.reason == "renewal_too_late"
        for name, instance in (("a", "two"), ("unknown", "one")):
            with pytest.raises(RenewalRefusedError) as unknown:
                await Keys(store=core.store, instance=instance).spend(name, "b")
            assert unknown.value.reason == "renewal_unknown"
            with pytest.raises(RenewalRefusedError):
                await core.store.renewal_keys.check(name.encode(), instance=instance)
        with pytest.raises(InputError):
            await keys.spend("a", "a")
        await core.store.renewal_keys.check(b"a", instance="one")
        await keys.spend("a", "b", ended=LATER - 7_200)


async def test_who_joins_anew_begins_anew(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        keys = Keys(store=core.store)
        await keys.begin("a")
        await keys.spend("a", "b")
        await keys.begin("c")
        assert await keys.count() == 1
        with pytest.raises(RenewalRefusedError, match="doesn't know"):
            await keys.spend("b", "x")
        with pytest.raises(InputError):
            await Keys(store=core.store, instance="two").begin("c")
        await keys.begin(None)
        assert await keys.count() == 0


async def test_used_keys_are_forgotten_when_they_are_old(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        keys = Keys(store=core.store)
        await keys.begin("a")
        await keys.spend("a", "b")
        await keys.spend("b", "c", now=LATER + 60)
        assert await core.store.renewal_keys.prune(spent_before=LATER + 30) == 1
        assert await keys.count() == 2


async def test_who_comes_back_again_and_again_waits_longer_and_is_never_shut_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a supervisor starts a sidecar whenever it has ended."""
    monkeypatch.setattr(renewal_keys, "MAX_PROMPT_A_DAY", 3)
    async with opened(tmp_path / "d") as core:
        keys = Keys(store=core.store)
        await keys.begin("0")
        for use in range(3):
            await keys.spend(str(use), str(use + 1), now=LATER + 5 * use)
        last, ended = LATER + 10, LATER + 86_400
        with pytest.raises(UnavailableError, match="3 times within a day: again in 60 s"):
            await keys.spend("3", "4", now=last + 60)
        await keys.spend("3", "4", now=last + 120)
        await keys.spend("4", "5", now=last + 240)
        with pytest.raises(UnavailableError):
            await keys.spend("5", "6", now=last + 250)
        await keys.spend("5", "6", ended=ended, now=last + 86_700)
        await keys.spend("6", "7", ended=ended, now=last + 86_705)
        with pytest.raises(RenewalReusedError):
            await keys.spend("0", "x", ended=ended, now=last + 86_800)
