"""The first start makes root and issuing authority, once; later starts find them."""

from __future__ import annotations

import asyncio
from pathlib import Path

from ca.authority.authorities import Authorities
from ca.store.store import Store
from tests.ca.founded import KEK, NOW, TRUST_DOMAIN, make_rotation, opened


async def test_a_second_start_finds_what_the_first_made(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        bundle, pin = core.authorities.bundle(), core.authorities.root_pin
        assert (len(bundle.roots), len(bundle.issuers), bundle.distrusted) == (1, 1, ())
    async with opened(tmp_path / "d", now=NOW + 5) as core:
        assert core.authorities.bundle() == bundle
        assert core.authorities.root_pin == pin


async def test_two_first_starts_at_once_agree(tmp_path: Path) -> None:
    stores = [await Store.open(tmp_path / "d", trust_domain=TRUST_DOMAIN) for _ in range(2)]
    try:
        one, two = await asyncio.gather(*(Authorities.open(store, KEK, now=NOW) for store in stores))
        await one.reload()
        await two.reload()
        assert one.bundle() == two.bundle()
        assert len(one.snapshot.records) == 2
    finally:
        for store in stores:
            await store.close()


async def test_listeners_hear_of_a_change_and_of_nothing_else(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as core:
        heard: list[int] = []
        core.authorities.on_change(lambda: heard.append(core.authorities.bundle().sequence))
        await core.authorities.reload()
        assert heard == []
        before = core.authorities.bundle().sequence
        await make_rotation(core.store, core.authorities, minimum_s=60).start(now=NOW)
        assert heard == [before + 1]
        assert len(core.authorities.bundle().issuers) == 2
