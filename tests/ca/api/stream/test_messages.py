"""What a sidecar says is checked, stored and answered (``ca.api.stream.messages``)."""

from __future__ import annotations

import pytest

from ca.runtime.compose import RunningCA
from ca.store.records import DecisionFilter
from shared.model.identity.program import Program
from shared.model.wire.messages import (
    MAX_DECISION_BYTES,
    BundleInstalled,
    Decisions,
    DecisionsStored,
    FromSidecar,
    Lookup,
    NamespaceInstalled,
    ProgramSeen,
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


async def test_what_a_program_has_a_part_in_never_ends_its_sidecars_stream(services: RunningCA) -> None:
    """Else a program that needs no approval could keep the decisions of its pod from the CA."""
    async with FakeSidecar(services) as client:
        await client.enrol("a")
        await client.send(ProgramSeen(program=Program(digest="a" * 64), path="/srv/\x1b[2J"))
        records = (make_decision("c", detail="x" * MAX_DECISION_BYTES), make_decision("fine"))
        await client.send(Decisions(batch=1, records=records))
        assert await client.expect(DecisionsStored) == DecisionsStored(batch=1)
    assert [each.record.connection for each in await services.store.decisions.query(EVERYTHING)] == ["fine"]
