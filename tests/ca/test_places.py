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


async def test_a_newcomer_gets_the_place_of_one_whose_deadline_is_over_at_the_same_moment() -> None:
    """Its timeout has fired, and its task hasn't run yet: the newcomer got an internal error."""
    places = Places(1)
    source = name_source("198.18.0.1")
    holding = asyncio.create_task(hold(places, "198.18.0.1"))
    await asyncio.sleep(0)
    (deadline,) = places._taken[source]
    loop = asyncio.get_running_loop()
    deadline.reschedule(loop.time())
    newcomer: asyncio.Future[None] = loop.create_future()

    async def come() -> None:
        async with places.take("198.18.0.2", deadline_s=30):
            newcomer.set_result(None)

    while not deadline.expired():  # Seen between the timer and the task that it ends.
        await asyncio.sleep(0)
    assert not holding.done()
    await come()
    assert newcomer.done() and len(places) == 0
    with pytest.raises(TimeoutError):
        await holding


async def wait_for(places: Places, waiting: int) -> None:
    while places.waiting != waiting:  # Tasks have to come to their places.
        await asyncio.sleep(0)


async def test_in_a_line_each_gets_its_turn_and_nobody_loses_a_place() -> None:
    """Sidecars that come at once: a hundred for two places, one from each address."""
    places = Places(2, line=200)
    order: list[int] = []

    async def come(number: int) -> None:
        async with places.take(f"198.18.0.{number}", deadline_s=300):
            assert len(places) <= 2
            await asyncio.sleep(0)
            order.append(number)

    await asyncio.gather(*(come(number) for number in range(100)))
    assert order == list(range(100))
    assert (len(places), places.waiting) == (0, 0)


async def test_beside_a_line_a_source_keeps_no_more_than_one_place_more_than_a_newcomers() -> None:
    places = Places(3, line=10)
    tasks = await fill(places, "198.18.0.1", "198.18.0.1", "198.18.0.1")
    async with places.take("198.18.0.2", deadline_s=300):
        with pytest.raises(TimeoutError):
            await tasks[0]
        third = asyncio.create_task(hold(places, "198.18.0.3"))
        await asyncio.gather(tasks[1], return_exceptions=True)
        fourth = asyncio.create_task(hold(places, "198.18.0.4"))
        await wait_for(places, 1)
        assert len(places) == 3
    assert not fourth.done()
    await wait_for(places, 0)
    await end([*tasks, third, fourth])
    assert len(places) == 0


async def test_a_line_has_an_end_for_one_source_and_for_all() -> None:
    places = Places(1, line=2)
    tasks = [asyncio.create_task(hold(places, f"198.18.0.{number}")) for number in (1, 1, 2)]
    await wait_for(places, 2)
    for address in ("198.18.0.1", "198.18.0.3"):
        with pytest.raises(NoPlaceError):
            await hold(places, address)
    await end(tasks)
    assert (len(places), places.waiting) == (0, 0)


async def test_sources_take_turns_in_the_line() -> None:
    """One pod's sidecar that fills its half of the line would keep all others waiting until their deadline."""
    places = Places(1, line=100)
    order: list[str] = []

    async def come(address: str) -> None:
        async with places.take(address, deadline_s=300):
            order.append(address)

    async with places.take("198.18.0.9", deadline_s=300):
        waiting = [asyncio.create_task(come("198.18.0.1")) for _ in range(20)]
        await wait_for(places, 20)
        waiting += [asyncio.create_task(come(f"198.18.0.{number}")) for number in (2, 3)]
        await wait_for(places, 22)
    await asyncio.gather(*waiting)
    assert order == [f"198.18.0.{number}" for number in (1, 2, 3, *[1] * 19)]
    assert (len(places), places.waiting) == (0, 0)


@pytest.mark.parametrize("is_called", [True, False])
async def test_who_leaves_the_line_keeps_no_place(is_called: bool) -> None:
    places = Places(1, line=5)
    first = asyncio.create_task(hold(places, "198.18.0.1"))
    gone = asyncio.create_task(hold(places, "198.18.0.2"))
    await wait_for(places, 1)
    if is_called:
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
    await end([gone])
    last = asyncio.create_task(hold(places, "198.18.0.3"))
    await end([first])
    while not len(places):
        await asyncio.sleep(0)
    assert (len(places), places.waiting) == (1, 0)
    await end([last])
    assert len(places) == 0


async def test_who_waits_too_long_gets_no_place() -> None:
    places = Places(1, line=5)
    tasks = await fill(places, "198.18.0.1")
    with pytest.raises(NoPlaceError):
        async with places.take("198.18.0.2", deadline_s=0.01):
            pass
    assert (len(places), places.waiting) == (1, 0)
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
