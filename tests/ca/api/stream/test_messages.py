"""What a sidecar says is checked, stored and answered (``ca.api.stream.messages``)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from ca.api.stream import messages
from ca.runtime.compose import RunningCA
from ca.store.records import DecisionFilter
from shared.model.identity.program import Program
from shared.model.wire.messages import (
    MAX_DECISION_BYTES,
    BundleInstalled,
    Decisions,
    DecisionsStored,
    DirectoryEntry,
    FromSidecar,
    Lookup,
    NamespaceInstalled,
    ProgramSeen,
    Refusal,
    Resume,
    Subscribe,
)
from tests.ca.running import FakeSidecar, make_client_context, make_decision, make_registration

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


async def test_a_sidecar_that_knows_more_than_the_store_is_told_why_that_may_be(services: RunningCA) -> None:
    """A copied file or a machine's snapshot in the store's place: its streams end until somebody restores properly."""
    async with FakeSidecar(services) as client:
        sequence = (await client.enrol("a")).bundle.sequence
        await client.send(BundleInstalled(sequence=sequence + 1))
        assert "touchmark ca restore" in (await client.expect(Refusal)).hint


async def test_what_is_acknowledged_again_costs_no_transaction(
    services: RunningCA, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each was one, with a look at all sidecars: one that repeats itself would keep the writer from everybody else."""
    written: list[str] = []
    for name in ("mark_bundle_installed", "mark_namespace_installed", "mark_subscribed"):
        monkeypatch.setattr(
            services.store.sidecars, name, _noting(getattr(services.store.sidecars, name), name, written)
        )
    async with FakeSidecar(services) as client:
        sequence = (await client.enrol("a")).bundle.sequence
        for _ in range(3):
            await client.send(
                BundleInstalled(sequence=sequence),
                NamespaceInstalled(namespace="shop", version=0),
                Subscribe(namespace="bank"),
            )
        await client.send(BundleInstalled(sequence=1), Lookup(address="198.18.0.2"))
        await client.expect(DirectoryEntry)
    assert written == ["mark_bundle_installed", "mark_namespace_installed", "mark_subscribed"]
    known = await services.store.sidecars.get("a")
    assert known is not None
    assert (known.installed_sequence, known.namespace_versions) == (sequence, {"shop": 0, "bank": 0})


async def test_a_sidecar_that_names_other_namespaces_on_each_stream_comes_to_the_same_bound(
    services: RunningCA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "MAX_NAMESPACES", 3)
    async with FakeSidecar(services) as client:
        await client.enrol("a")
        await client.send(Subscribe(namespace="n1"), Subscribe(namespace="n2"), Lookup(address="198.18.0.2"))
        await client.expect(DirectoryEntry)
        pem = client.write_pem(tmp_path / "pem")
    async with FakeSidecar(services, make_client_context(services, pem)) as client:
        await client.resume("a")
        await client.send(Subscribe(namespace="n1"), Subscribe(namespace="n3"), Subscribe(namespace="n4"))
        assert "at most 3 namespaces" in (await client.expect(Refusal)).message
    known = await services.store.sidecars.get("a")
    assert known is not None
    assert set(known.namespace_versions) == {"n1", "n2", "n3"}


def _noting(work: Callable[..., Awaitable[None]], name: str, written: list[str]) -> Callable[..., Awaitable[None]]:
    async def noted(*arguments: Any, **options: Any) -> None:
        written.append(name)
        await work(*arguments, **options)

    return noted


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
