"""What serves a destination: facts about it, and the credential it is served with."""

from __future__ import annotations

from shared.model.identity.program import Program
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Mode
from sidecar.listener import attest_listener, choose_listener_credential, serves_listener
from tests.sidecar.pair import SERVER, SERVER_PROGRAM, approve, running_pair
from tests.sidecar.test_outbound import echo


async def test_a_destination_that_isnt_served_here_has_no_listener() -> None:
    async with running_pair(echo) as pair:
        for destination in (("127.0.0.1", 0), ("198.18.0.9", 80), ("127.0.0.1", pair.tunnel[1])):
            listener = await attest_listener(pair.server.sidecar, destination)
            assert (listener.application, listener.why) == (None, Reason.DESTINATION_NOT_SERVED)


async def test_why_nothing_was_attested_is_a_fact_and_no_failure() -> None:
    async with running_pair(echo) as pair:
        pair.server.attestor.silent.add(80)
        listener = await attest_listener(pair.server.sidecar, ("127.0.0.1", 80))
        assert (listener.attestation, listener.why) == (None, Reason.NO_LISTENER)
        assert listener.detail
        assert await choose_listener_credential(pair.server.sidecar, listener) is pair.server.credentials.own


async def test_in_explicit_mode_no_credential_is_asked_for_a_program_that_isnt_approved() -> None:
    async with running_pair(echo) as pair:
        sidecar, credentials = pair.server.sidecar, pair.server.credentials
        pair.server.attestor.program = Program(digest="c" * 64)
        listener = await attest_listener(sidecar, ("127.0.0.1", 80))
        assert await choose_listener_credential(sidecar, listener) is credentials.own
        assert len(credentials.obtained) == 1  # Permissive: it was asked for, in vain.
        pair.set_state(approve((SERVER, SERVER_PROGRAM), mode=Mode.EXPLICIT))
        assert await choose_listener_credential(sidecar, listener) is credentials.own
        assert len(credentials.obtained) == 1


async def test_a_credential_serves_its_own_program_only_and_the_sidecars_own_what_has_none() -> None:
    async with running_pair(echo) as pair:
        sidecar, credentials = pair.server.sidecar, pair.server.credentials
        programs = credentials.by_program[SERVER_PROGRAM]
        listener = await attest_listener(sidecar, ("127.0.0.1", 80))
        assert serves_listener(sidecar, programs, listener)
        assert not serves_listener(sidecar, credentials.own, listener)
        pair.server.attestor.program = Program(digest="c" * 64)
        other = await attest_listener(sidecar, ("127.0.0.1", 80))
        assert not serves_listener(sidecar, programs, other)
        assert serves_listener(sidecar, credentials.own, other)
