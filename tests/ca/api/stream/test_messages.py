"""What a sidecar says is checked, stored and answered (``ca.api.stream.messages``)."""

from __future__ import annotations

import pytest

from ca.runtime.compose import RunningCA
from ca.store.records import DecisionFilter
from shared.model.wire.messages import (
    BundleInstalled,
    Decisions,
    DecisionsStored,
    FromSidecar,
    Lookup,
    NamespaceInstalled,
    Refusal,
    Resume,
)
from tests.ca.running import FakeSidecar, make_decision, make_registration

EVERYTHING = DecisionFilter()


@pytest.mark.parametrize(
    "message",
    [
        BundleInstalled(sequence=99),
        BundleInstalled(sequence=-(2**70)),
        NamespaceInstalled(namespace="shop", version=7),
        NamespaceInstalled(namespace="shop", version=-(2**70)),
        NamespaceInstalled(namespace="bank", version=0),
        Lookup(address="::ffff:198.18.0.2"),
        Decisions(batch=1, records=(make_decision("c", count=0),)),
        Decisions(batch=1, records=(), lost=-1),
        Decisions(batch=1, records=(make_decision("c"),) * 501),
        Resume(registration=make_registration("a")),
    ],
    ids=lambda message: repr(message)[:40],
)
async def test_what_breaks_the_protocol_ends_the_stream_with_a_refusal(
    services: RunningCA, message: FromSidecar
) -> None:
    async with FakeSidecar(services) as client:
        await client.enrol("a")
        await client.send(message)
        assert (await client.expect(Refusal)).code == "protocol_error"
    assert await services.store.decisions.query(EVERYTHING) == []


async def test_decisions_are_acknowledged_when_they_are_stored(services: RunningCA) -> None:
    async with FakeSidecar(services) as client:
        await client.enrol("a")
        await client.send(Decisions(batch=4, records=(make_decision("c", sidecar="forged"),), lost=2))
        assert await client.expect(DecisionsStored) == DecisionsStored(batch=4)
    (stored,) = await services.store.decisions.query(EVERYTHING)
    assert stored.record.sidecar == "a"
    assert services.decisions.lost == 2
