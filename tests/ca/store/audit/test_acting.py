"""Who acts is the CA itself, unless a request is being served (``ca.store.audit.acting``)."""

from __future__ import annotations

import asyncio

from ca.store.audit.acting import THE_CA, acting_as, current_actor
from shared.model.wire.admin_audit import AuditActor


async def test_a_block_acts_as_its_actor_with_the_tasks_that_it_starts_and_others_do_not() -> None:
    release = asyncio.Event()

    async def wait_and_look() -> AuditActor:
        await release.wait()
        return current_actor()

    someone = AuditActor(kind="socket", uid=7)
    other = asyncio.create_task(wait_and_look())
    with acting_as(someone):
        own = asyncio.create_task(wait_and_look())
    assert current_actor() is THE_CA
    release.set()
    assert (await own, await other) == (someone, THE_CA)
