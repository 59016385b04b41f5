"""A connection's record: exactly one on every exit path."""

from __future__ import annotations

import asyncio
import dataclasses
import time

import pytest
from cryptography import x509
from msgspec.structs import replace

from shared.model.policy.decision import Answer, Ending, Phase, Transport
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction, Mode
from shared.model.trust.bundle import public_key_digest
from shared.model.trust.certificate import VerifiedPeer
from sidecar.connection.connection import Connection, Refused
from sidecar.pump.ends import Finished
from sidecar.pump.guard import Guard
from tests.sidecar.pair import (
    CLIENT,
    CLIENT_PROGRAM,
    SERVER,
    SERVER_PROGRAM,
    Mint,
    Pair,
    approve,
    identify,
    running_pair,
)
from tests.sidecar.test_outbound import echo

SOURCE, DESTINATION = ("198.18.0.1", 40000), ("198.18.0.2", 5432)


def make(pair: Pair) -> Connection:
    connection = Connection(pair.client.sidecar, Direction.EGRESS, source=SOURCE, destination=DESTINATION)
    connection.parties.source = replace(connection.parties.source, workload=CLIENT, program=CLIENT_PROGRAM)
    connection.parties.destination = replace(connection.parties.destination, workload=SERVER, program=SERVER_PROGRAM)
    return connection


async def test_a_refusal_is_recorded_once_and_doesnt_leave_the_story() -> None:
    async with running_pair(echo) as pair:
        with make(pair) as connection:
            assert len(pair.client.sidecar.connections) == 1
            raise Refused(Reason.CA_UNAVAILABLE, "why")
        assert len(pair.client.sidecar.connections) == 0
        connection.__exit__(None, None, None)
        (record,) = pair.client.records
        assert (record.answer, record.reason, record.ending) == (Answer.DENY, Reason.CA_UNAVAILABLE, Ending.REFUSED)
        assert (record.detail, record.phase) == ("why", Phase.END)


async def test_a_fault_of_ours_is_recorded_and_raised_on() -> None:
    async with running_pair(echo) as pair:
        with pytest.raises(ZeroDivisionError), make(pair):
            raise ZeroDivisionError
        (record,) = pair.client.records
        assert (record.answer, record.reason, record.ending) == (Answer.DENY, Reason.INTERNAL_ERROR, Ending.REFUSED)
        assert "ZeroDivisionError" in record.detail


async def test_a_shutdown_before_the_verdict_is_recorded_as_that() -> None:
    async with running_pair(echo) as pair:
        with pytest.raises(asyncio.CancelledError), make(pair):
            raise asyncio.CancelledError
        (record,) = pair.client.records
        assert (record.answer, record.reason, record.ending) == (Answer.DENY, Reason.SHUTTING_DOWN, Ending.SHUTDOWN)


async def test_a_cancelled_story_is_a_shutdown_and_stays_cancelled() -> None:
    async with running_pair(echo) as pair:
        with pytest.raises(asyncio.CancelledError), make(pair) as connection:
            connection.decide()
            raise asyncio.CancelledError
        assert pair.client.records[0].ending is Ending.SHUTDOWN


async def test_a_change_revokes_what_is_no_longer_allowed_at_any_step() -> None:
    async with running_pair(echo) as pair:
        with make(pair) as connection:
            connection.decide()
            connection.decide_again()
            connection.check_not_revoked()
            pair.set_state(approve((SERVER, SERVER_PROGRAM), mode=Mode.EXPLICIT))
            connection.decide_again()
            connection.check_not_revoked()
        (record,) = pair.client.records
        assert (record.answer, record.reason) == (Answer.DENY, Reason.PROGRAM_NOT_APPROVED)
        assert record.ending is Ending.POLICY_CHANGED


async def test_a_remembered_evaluation_never_answers_for_another_policy_or_another_party() -> None:
    async with running_pair(echo) as pair:
        with make(pair) as connection:
            assert connection.decide() == connection.decide()
            # No notice of the change reaches the registry: the policy itself is another key.
            pair.set_state(approve((SERVER, SERVER_PROGRAM), mode=Mode.EXPLICIT))
            with pytest.raises(Refused):
                connection.decide()
            pair.set_state(approve((CLIENT, CLIENT_PROGRAM), (SERVER, SERVER_PROGRAM), mode=Mode.EXPLICIT))
            assert connection.decide().allowed
            connection.parties.source = replace(connection.parties.source, program=SERVER_PROGRAM)
            with pytest.raises(Refused):
                connection.decide()


class Renewed:
    """A pump whose tunnel has made new keys, with another certificate."""

    sent = received = 0

    def __init__(self, peer: VerifiedPeer) -> None:
        self.peer = peer
        self.finished = Finished(asyncio.get_running_loop())

    def abort(self, ending: Ending, reason: Reason | None = None) -> None:
        """Nothing moves."""

    def guard_by(self, guard: Guard) -> None:
        """Nothing moves."""


async def test_what_a_peer_proved_with_new_keys_is_what_counts() -> None:
    """Distrusted may be what signed its first certificate, or what signed its present one."""
    async with running_pair(echo) as pair:
        trust, first, second = pair.client.trust, pair.mint, Mint()
        both = (*trust.bundle.issuers, *second.bundle.issuers)
        roots = (*trust.bundle.roots, *second.bundle.roots)
        trust.install(replace(trust.bundle, sequence=trust.bundle.sequence + 1, issuers=both, roots=roots))
        old, new = (
            trust.verifier.verify_peer(
                [x509.load_der_x509_certificate(der) for der in mint.issue(identify(SERVER, SERVER_PROGRAM)).chain],
                now=time.time(),
            )
            for mint in (first, second)
        )
        for signer, is_closed in ((first, False), (second, True)):
            distrusted = tuple(public_key_digest(x509.load_der_x509_certificate(der)) for der in signer.bundle.issuers)
            with make(pair) as connection:
                connection.decide()
                connection.parties.note_peer(old)
                connection.note_pump(Renewed(new), Transport.TUNNEL)
                trust.install(replace(trust.bundle, sequence=trust.bundle.sequence + 1, distrusted=distrusted))
                connection.check_peer_again()
                assert connection.is_revoked is is_closed
                assert connection.parties.issuer == new.issuer


async def test_a_complete_search_takes_back_that_one_was_incomplete_and_nothing_that_was_found() -> None:
    async with running_pair(echo) as pair:
        with make(pair) as connection:
            connection.note_unproven(Reason.HOLDERS_UNKNOWN, "too many processes")
            connection.note_cleared()
            assert connection.refused_in_explicit is None
            connection.note_unproven(Reason.HOLDERS_UNKNOWN, "too many processes")
            connection.note_unproven(Reason.SOCKET_SHARED, "process 7 holds it")
            connection.note_cleared()
            assert connection.refused_in_explicit is Reason.SOCKET_SHARED


async def test_an_unprocessed_open_leaves_no_record() -> None:
    async with running_pair(echo) as pair:
        with make(pair) as connection:
            connection.forget()
        assert pair.client.records == []


async def test_an_authority_that_retires_ends_no_live_connection_and_one_that_is_distrusted_does() -> None:
    """A connection may outlive its peer's certificate; only then has what signed it left the bundle untainted."""
    async with running_pair(echo) as pair:
        credential = pair.mint.issue(identify(SERVER, SERVER_PROGRAM))
        chain = [x509.load_der_x509_certificate(der) for der in credential.chain]
        trust = pair.client.trust
        peer = trust.verifier.verify_peer(chain, now=time.time())
        ended = dataclasses.replace(peer, not_after=time.time() - 1)
        after = Mint().bundle
        distrusted = (public_key_digest(chain[1]),)
        for known, bundle, is_closed in (
            (peer, after, True),
            (ended, after, False),
            (ended, replace(after, distrusted=distrusted), True),
            (peer, replace(trust.bundle, issuers=(*trust.bundle.issuers, *after.issuers)), False),
        ):
            with make(pair) as connection:
                connection.decide()
                connection.parties.peer = known
                trust.install(replace(bundle, sequence=trust.bundle.sequence + 1))
                connection.check_peer_again()
                assert connection.is_revoked is is_closed
