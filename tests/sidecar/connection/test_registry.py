"""The registry: its bounds, start records, listing, and the end of everything."""

from __future__ import annotations

import time

import msgspec
import pytest
from msgspec.structs import replace

from shared.model.identity.identity import Workload
from shared.model.policy.decision import Answer, Ending, Phase
from shared.model.policy.reasons import Reason
from sidecar.attest.facts import Execution
from sidecar.connection.connection import Connection, Refused
from sidecar.connection.registry import LiveConnections
from sidecar.slices import SLICE_S
from tests.sidecar.connection.test_connection import make
from tests.sidecar.little_ca import until
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
        with make(pair) as young:
            young.decide()
        assert [(r.phase, r.answer, r.has_started) for r in pair.client.records] == [
            (Phase.START, Answer.ALLOW, msgspec.UNSET),
            (Phase.END, Answer.ALLOW, True),  # So that who counts connections counts this one once.
            (Phase.END, Answer.ALLOW, msgspec.UNSET),
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


async def test_those_that_are_due_again_dont_wait_for_a_flood_of_new_ones() -> None:
    async with running_pair(echo) as pair:
        registry = LiveConnections(holders_period_s=5.0)
        with make(pair) as old, make(pair) as one, make(pair) as two, make(pair) as three:
            for connection in (old, one, two, three):
                registry.add(connection)
            registry.watch(old)
            assert registry.next_unchecked(100.0) is old
            registry.note_checked(old, 100.0)
            for connection in (one, two, three):
                registry.watch(connection)
            found = [registry.next_unchecked(106.0) for _ in range(5)]
            assert found.index(old) <= 1
            assert set(found) == {old, one, two, three, None}


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


async def test_only_connections_that_a_change_concerns_are_decided_again_and_a_fault_closes_one_not_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running_pair(echo) as pair:
        registry, looked = pair.client.sidecar.connections, list[Connection]()

        def look(connection: Connection) -> None:
            looked.append(connection)
            if len(looked) == 1:
                raise RuntimeError("ordered by the test")

        with make(pair) as first, make(pair) as second, make(pair) as elsewhere:
            for connection in (first, second, elsewhere):
                connection.decide()
            bank = Workload(namespace="bank", service_account="db")
            elsewhere.parties.destination = replace(elsewhere.parties.destination, workload=bank)
            monkeypatch.setattr(Connection, "decide_again", look)
            registry.decide_again("bank")
            assert looked == [elsewhere]
            assert (elsewhere.is_revoked, elsewhere.refusal) == (True, Reason.INTERNAL_ERROR)
            registry.decide_again("none")
            registry.decide_again("shop")
            assert looked == [elsewhere, first, second, elsewhere]
            assert not first.is_revoked


async def test_many_connections_are_decided_again_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_pair(echo) as pair:
        registry, looked = LiveConnections(), list[Connection]()

        def look(connection: Connection) -> None:
            time.sleep(SLICE_S / 4)
            looked.append(connection)

        monkeypatch.setattr(Connection, "decide_again", look)
        connections = [make(pair) for _ in range(40)]
        for connection in connections:
            registry.add(connection)
        registry.decide_again()
        assert 0 < len(looked) < 40
        registry.remove(connections[-1])
        late = make(pair)
        registry.add(late)  # It is decided by what is in force now.
        await until(lambda: len(looked) == 39)
        assert looked == connections[:-1]


async def test_what_lives_at_the_end_is_closed_and_keeps_an_ending_that_it_has() -> None:
    async with running_pair(echo) as pair:
        registry = pair.client.sidecar.connections
        with make(pair) as first, make(pair) as second:
            first.decide()
            second.decide()
            second.ending = Ending.RESET_BY_SOURCE
            registry.close_all()
        assert [record.ending for record in pair.client.records] == [Ending.RESET_BY_SOURCE, Ending.SHUTDOWN]


async def test_an_orphans_holders_are_looked_for_at_once_and_four_times_as_often() -> None:
    """The attested process has ended: nothing but its socket's holders tells who goes on."""
    async with running_pair(echo) as pair:
        registry = pair.client.sidecar.connections = LiveConnections(holders_period_s=5.0)
        with make(pair) as connection:
            registry.watch(connection)
            assert registry.next_unchecked(100.0) is connection
            connection.be_orphaned()
            connection.be_orphaned()
            assert [registry.next_unchecked(100.0) for _ in range(2)] == [connection, None]
            registry.note_checked(connection, 100.0)
            assert registry.next_unchecked(101.2) is None
            assert registry.next_unchecked(101.25) is connection


async def test_who_turns_out_to_have_accepted_is_watched_instead_of_who_listens() -> None:
    async with running_pair(echo) as pair:
        registry = pair.client.sidecar.connections = LiveConnections()
        with make(pair) as connection:
            listener = pair.client.attestor.attest_now(("127.0.0.1", 1), ("127.0.0.1", 2))
            assert listener is not None
            connection.note_attestation(listener)
            accepted = replace(listener, execution=Execution(43, 1, 0, 0, 0, 0, 0))
            connection.note_attestation(accepted)
            assert registry.list_attestations() == [accepted]
            assert registry.list_of(listener.execution) == []
            assert [registry.next_unchecked(0.0) for _ in range(2)] == [connection, None]
        assert registry.list_attestations() == []


async def test_what_is_closed_at_the_end_between_two_steps_goes_no_further() -> None:
    async with running_pair(echo) as pair:
        with make(pair) as connection:
            connection.decide()
            pair.client.sidecar.connections.close_all()
            with pytest.raises(Refused) as caught:
                connection.check_not_revoked()
            assert caught.value.reason is Reason.SHUTTING_DOWN
        assert [record.ending for record in pair.client.records] == [Ending.SHUTDOWN]
