"""Places are shared out by source (``ca.places``): who is silent keeps nobody else out."""

from __future__ import annotations

import asyncio

import pytest

from ca.places import NoPlaceError, Places, name_source


async def hold(places: Places, address: str) -> None:
    async with places.take(address, deadline_s=30):
        await asyncio.Event().wait()


async def fill(places: Places, *addresses: str) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(hold(places, address)) for address in addresses]
    await asyncio.sleep(0)
    assert len(places) == min(len(addresses), places.limit)
    return tasks


async def end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_newcomer_gets_the_oldest_place_of_who_holds_the_most() -> None:
    places = Places(4)
    tasks = await fill(places, "198.18.0.1", "198.18.0.2", "198.18.0.1", "198.18.0.1")
    async with places.take("198.18.0.3", deadline_s=30):
        with pytest.raises(TimeoutError):
            await tasks[0]
        assert len(places) == 4 and not any(task.done() for task in tasks[1:])
    assert len(places) == 3
    await end(tasks)
    assert len(places) == 0


async def test_who_holds_as_many_as_anybody_gets_no_more() -> None:
    places = Places(2)
    tasks = await fill(places, "198.18.0.1", "198.18.0.1")
    with pytest.raises(NoPlaceError):
        await hold(places, "198.18.0.1")
    assert not any(task.done() for task in tasks)
    await end(tasks)


async def test_a_place_has_a_deadline() -> None:
    places = Places(1)
    with pytest.raises(TimeoutError):
        async with places.take("198.18.0.1", deadline_s=0.01):
            await asyncio.Event().wait()
    assert len(places) == 0


def test_a_hosts_many_addresses_are_one_source() -> None:
    assert name_source("2001:db8::1") == name_source("2001:db8::ffff:1") != name_source("2001:db8:0:1::1")
    assert name_source("::ffff:198.18.0.1") == name_source("198.18.0.1") != name_source("198.18.0.2")
    assert name_source(None) == name_source("unix") == ""
