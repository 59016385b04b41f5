"""A responder without an approved listener says why its certificate shows no program."""

from __future__ import annotations

import pytest

from shared.model.policy.reasons import Reason, express_in_first_codes
from sidecar.tls import contexts
from sidecar.tls.contexts import ALPN_BEFORE
from sidecar.tunnel import no_program
from sidecar.tunnel.frames import FrameType
from sidecar.tunnel.no_program import choose_why, learn_why
from sidecar.tunnel.tunnel import Loss
from tests.sidecar.little_ca import until
from tests.sidecar.pair import Mint
from tests.sidecar.tls.test_handshake import make_tunnels
from tests.sidecar.tunnel.test_tunnel import OPENING, Listener


async def test_the_reason_comes_right_after_the_handshake_and_the_tunnel_is_used_as_any_other() -> None:
    first, second = await make_tunnels(Mint(), serves_program=False)
    second.say_why(Reason.NO_LISTENER)
    assert await learn_why(first) is Reason.NO_LISTENER
    client, server = Listener(), Listener()
    first.attach(client)
    second.attach(server)
    first.write(first.begin_opening(OPENING))
    await until(lambda: server.frames)
    second.send(FrameType.ACCEPT)
    await until(lambda: client.frames == [FrameType.ACCEPT])
    assert await learn_why(first) is Reason.NO_LISTENER, "it is remembered"
    first.close()
    second.close()


async def test_who_shows_a_program_is_not_waited_for_and_may_not_say_why() -> None:
    first, second = await make_tunnels(Mint())
    assert await learn_why(first) is None
    client = Listener()
    first.attach(client)
    second.say_why(Reason.NO_LISTENER)
    await until(lambda: client.losses == [Loss.PROTOCOL])
    second.close()


@pytest.mark.parametrize("said", [Reason.MTLS_UNAVAILABLE, Reason.ALLOW_RULE, Reason.LISTENER_NOT_APPROVED])
async def test_a_reason_that_is_not_about_a_listener_counts_as_not_approved(said: Reason) -> None:
    first, second = await make_tunnels(Mint(), serves_program=False)
    second.say_why(said)
    assert await learn_why(first) is Reason.LISTENER_NOT_APPROVED
    first.close()
    second.close()


def test_of_an_initiators_word_only_what_can_be_a_cause_counts() -> None:
    """Each of the others would read as this side's own decision, or as none."""
    for reason in (
        Reason.ALLOW_RULE,
        Reason.SAME_GROUP,
        Reason.DENY_RULE,
        Reason.NO_RULE,
        Reason.MTLS_UNAVAILABLE,
        None,
    ):
        assert choose_why(reason) is Reason.PEER_UNIDENTIFIED
    for reason in (Reason.CODE_NOT_APPROVED, Reason.SOCKET_SHARED, Reason.PROGRAM_NOT_APPROVED, Reason.CA_UNAVAILABLE):
        assert choose_why(reason) is reason
        assert choose_why(express_in_first_codes(reason)) is express_in_first_codes(reason)


async def test_a_peer_that_does_not_say_it_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(no_program, "WAIT_S", 0.01)
    first, second = await make_tunnels(Mint(), serves_program=False)
    assert await learn_why(first) is Reason.LISTENER_NOT_APPROVED
    first.close()
    second.close()


async def test_a_tunnel_that_ends_instead_is_noticed() -> None:
    first, second = await make_tunnels(Mint(), serves_program=False)
    second.close()
    assert await learn_why(first) is Reason.LISTENER_NOT_APPROVED
    assert first.is_closed


async def test_a_peer_of_the_first_protocol_is_told_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contexts, "ALPN", ALPN_BEFORE)
    first, second = await make_tunnels(Mint(), serves_program=False)
    assert not second.says_why
    second.say_why(Reason.NO_LISTENER)
    assert await learn_why(first) is Reason.LISTENER_NOT_APPROVED
    client, server = Listener(), Listener()
    first.attach(client)
    second.attach(server)
    first.write(first.begin_opening(OPENING))
    await until(lambda: server.frames)
    second.reset(Reason.DENY_RULE)
    await until(lambda: client.frames)
    assert client.frames == [FrameType.RESET]
    first.close()
