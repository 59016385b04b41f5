"""The registry: its bounds, start records, listing, and the end of everything."""

from __future__ import annotations

import time

from shared.model.policy.decision import Answer, Ending, Phase
from sidecar.connection.registry import LiveConnections
from tests.sidecar.connection.test_connection import make
from tests.sidecar.pair import running_pair
from tests.sidecar.test_outbound import echo


async def test_a_long_lived_connection_gets_one_start_record_and_a_young_one_none() -> None:
    async with running_pair(echo) as pair:
        with make(pair) as connection:
            connection.decide()
            registry = pair.client.sidecar.connections
            registry.record_long_lived(time.time())
            assert pair.client.records == []
            registry.record_long_lived(time.time() + 60)
            registry.record_long_lived(time.time() + 90)
            connection.ending = Ending.FINISHED
        assert [(r.phase, r.answer) for r in pair.client.records] == [
            (Phase.START, Answer.ALLOW),
            (Phase.END, Answer.ALLOW),
        ]


async def test_holders_are_looked_for_at_once_and_then_again_and_again() -> None:
    async with running_pair(echo) as pair:
        registry = LiveConnections(holders_period_s=5.0)
        with make(pair) as first, make(pair) as second:
            for connection in (first, second):
                registry.add(connection)
                registry.watch(connection)
            assert [registry.next_unchecked(100.0) for _ in range(3)] == [first, second, None]
            registry.note_checked(first, 100.0)
            registry.note_checked(second, 101.0)
            assert registry.next_unchecked(104.9) is None
            assert registry.next_unchecked(105.5) is first
            registry.note_checked(first, 105.5)
            registry.remove(second)
            assert registry.next_unchecked(110.0) is None
            assert registry.next_unchecked(110.5) is first


async def test_connections_are_known_by_their_programs_execution_while_they_live() -> None:
    async with running_pair(echo) as pair:
        registry = pair.client.sidecar.connections
        attestation = pair.client.attestor.attest_now(("198.18.0.1", 1), ("198.18.0.2", 2))
        assert attestation is not None
        with make(pair) as first, make(pair) as second:
            assert registry.list_attestations() == []
            first.note_attestation(attestation)
            second.note_attestation(attestation)
            assert registry.list_attestations() == [attestation]
            assert registry.list_of(attestation.execution) == [first, second]
        assert registry.list_attestations() == []
        assert registry.list_of(attestation.execution) == []


async def test_live_connections_are_described_within_the_limit() -> None:
    async with running_pair(echo) as pair:
        registry = pair.client.sidecar.connections
        with make(pair) as first, make(pair):
            first.decide()
            described, is_truncated = registry.describe(1)
            assert is_truncated
            assert described[0].source == "198.18.0.1:40000"
            assert described[0].destination_workload == "shop/db"


async def test_what_lives_at_the_end_is_closed_and_keeps_an_ending_that_it_has() -> None:
    async with running_pair(echo) as pair:
        registry = pair.client.sidecar.connections
        with make(pair) as first, make(pair) as second:
            first.decide()
            second.decide()
            second.ending = Ending.RESET_BY_SOURCE
            registry.close_all()
        assert [record.ending for record in pair.client.records] == [Ending.RESET_BY_SOURCE, Ending.SHUTDOWN]
