"""The tunnel's states: two ends that talk to each other, and every frame out of turn."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.model.errors import ProtocolError
from sidecar.tls.role import Role
from sidecar.tunnel.frames import FrameType as F
from sidecar.tunnel.turns import INITIATOR_TRANSITIONS, RESPONDER_TRANSITIONS, SideState, Turns


class Ends:
    """Both ends of one tunnel; what one sends the other receives at once."""

    def __init__(self) -> None:
        self.initiator = Turns(Role.INITIATOR)
        self.responder = Turns(Role.RESPONDER)

    def say(self, role: Role, frame: F, size: int = 0) -> None:
        sender, receiver = (
            (self.initiator, self.responder) if role is Role.INITIATOR else (self.responder, self.initiator)
        )
        receiver.receive(frame, sender.send(frame, size), size)


def test_a_turn_ends_when_both_sides_have_and_the_next_has_the_next_epoch() -> None:
    ends = Ends()
    for turn in range(600):
        ends.say(Role.INITIATOR, F.OPEN)
        assert ends.initiator.epoch == ends.responder.epoch == (turn + 1) % 256
        ends.say(Role.INITIATOR, F.DATA, 10)
        ends.say(Role.RESPONDER, F.ACCEPT)
        ends.say(Role.RESPONDER, F.DATA, 10)
        ends.say(Role.INITIATOR, F.END)
        idle_before_the_end = ends.initiator.is_idle
        ends.say(Role.RESPONDER, F.DATA, 10)
        ends.say(Role.RESPONDER, F.END)
        assert (idle_before_the_end, ends.initiator.is_idle, ends.responder.is_idle) == (False, True, True)


def test_a_refusal_is_the_responders_end() -> None:
    ends = Ends()
    ends.say(Role.INITIATOR, F.OPEN)
    ends.say(Role.RESPONDER, F.REFUSE)
    ends.say(Role.INITIATOR, F.DATA, 5)
    ends.say(Role.INITIATOR, F.END)
    assert ends.initiator.is_idle
    assert ends.responder.is_idle


def test_more_than_64_kib_before_the_answer_is_a_fault() -> None:
    responder = Turns(Role.RESPONDER)
    responder.receive(F.OPEN, 1)
    for _ in range(4):
        responder.receive(F.DATA, 1, 16_384)
    with pytest.raises(ProtocolError):
        responder.receive(F.DATA, 1, 1)


def test_closing_that_crossed_the_open_allows_a_retry() -> None:
    ends = Ends()
    epoch = ends.responder.send(F.CLOSING)
    ends.initiator.send(F.OPEN)
    ends.initiator.receive(F.CLOSING, epoch)
    assert ends.initiator.is_retry_allowed()


def test_a_disowned_open_allows_a_retry() -> None:
    ends = Ends()
    ends.say(Role.INITIATOR, F.OPEN)
    ends.initiator.receive(F.CLOSING, ends.responder.disown())
    assert ends.initiator.is_retry_allowed()
    with pytest.raises(RuntimeError):
        ends.responder.disown()


def test_closing_of_the_turns_own_epoch_allows_none() -> None:
    ends = Ends()
    ends.say(Role.INITIATOR, F.OPEN)
    ends.say(Role.RESPONDER, F.CLOSING)
    assert not ends.initiator.is_retry_allowed()
    ends.say(Role.RESPONDER, F.ACCEPT)
    ends.say(Role.INITIATOR, F.END)
    ends.say(Role.RESPONDER, F.END)
    with pytest.raises(RuntimeError):
        ends.initiator.send(F.OPEN)


def test_a_reset_of_the_last_turn_that_crossed_the_open_allows_a_retry() -> None:
    """The responder had not seen the initiator's END yet when its application broke."""
    ends = Ends()
    ends.say(Role.INITIATOR, F.OPEN)
    ends.say(Role.RESPONDER, F.ACCEPT)
    ends.say(Role.RESPONDER, F.END)
    ends.initiator.send(F.END)
    epoch = ends.responder.send(F.RESET)
    assert ends.initiator.is_over(epoch)
    ends.initiator.send(F.OPEN)
    assert not ends.initiator.is_over(epoch)
    ends.initiator.receive(F.RESET, epoch)
    assert ends.initiator.is_retry_allowed()


def test_a_reset_of_the_last_turn_after_the_answer_is_a_fault() -> None:
    ends = Ends()
    for _ in range(2):
        ends.say(Role.INITIATOR, F.OPEN)
        ends.say(Role.RESPONDER, F.ACCEPT)
        ends.say(Role.RESPONDER, F.END)
        ends.say(Role.INITIATOR, F.END)
    ends.say(Role.INITIATOR, F.OPEN)
    ends.say(Role.RESPONDER, F.ACCEPT)
    for epoch in (1, 2):
        with pytest.raises(ProtocolError):
            ends.initiator.receive(F.RESET, epoch)


def test_closing_after_the_answer_cannot_disown_the_turn() -> None:
    ends = Ends()
    ends.say(Role.INITIATOR, F.OPEN)
    ends.say(Role.RESPONDER, F.ACCEPT)
    with pytest.raises(ProtocolError):
        ends.initiator.receive(F.CLOSING, 0)


@pytest.mark.parametrize("has_ended", [False, True])
def test_an_aborted_turn_ends_when_the_responder_has_answered_and_the_next_may_begin(has_ended: bool) -> None:
    ends = Ends()
    for _ in range(300):
        ends.say(Role.INITIATOR, F.OPEN)
        ends.say(Role.RESPONDER, F.ACCEPT)
        if has_ended:
            ends.say(Role.RESPONDER, F.END)
        assert (ends.initiator.may_abort, ends.responder.may_abort) == (True, False)
        ends.say(Role.INITIATOR, F.ABORT)
        if not has_ended:
            ends.say(Role.RESPONDER, F.DATA, 10)
        assert ends.initiator.is_aborting
        assert ends.responder.is_aborting
        assert not ends.initiator.may_abort
        assert not (ends.initiator.is_idle or ends.responder.is_idle)
        with pytest.raises(RuntimeError):
            ends.initiator.send(F.OPEN)
        ends.say(Role.RESPONDER, F.ABORT)
        for end in (ends.initiator, ends.responder):
            assert (end.is_idle, end.is_aborting) == (True, False)


def test_an_end_that_crosses_abort_changes_nothing() -> None:
    ends = Ends()
    ends.say(Role.INITIATOR, F.OPEN)
    ends.say(Role.RESPONDER, F.ACCEPT)
    epoch = ends.responder.send(F.END)
    ends.responder.receive(F.ABORT, ends.initiator.send(F.ABORT))
    ends.initiator.receive(F.END, epoch)
    before = (ends.initiator.is_idle, ends.responder.is_idle)
    ends.say(Role.RESPONDER, F.ABORT)
    assert (before, ends.initiator.is_idle, ends.responder.is_idle) == ((False, False), True, True)


@pytest.mark.parametrize("before", [[], [F.ACCEPT, F.END]], ids=["before the answer", "after the own end"])
def test_abort_may_come_neither_before_the_answer_nor_after_the_own_end(before: list[F]) -> None:
    ends = Ends()
    ends.say(Role.INITIATOR, F.OPEN)
    for frame in before:
        ends.say(Role.RESPONDER if frame is F.ACCEPT else Role.INITIATOR, frame)
    assert not ends.initiator.may_abort
    with pytest.raises(RuntimeError):
        ends.initiator.send(F.ABORT)
    with pytest.raises(ProtocolError):
        ends.responder.receive(F.ABORT, 1)


def test_a_responder_aborts_no_turn_by_itself() -> None:
    ends = Ends()
    ends.say(Role.INITIATOR, F.OPEN)
    ends.say(Role.RESPONDER, F.ACCEPT)
    with pytest.raises(RuntimeError):
        ends.responder.send(F.ABORT)
    with pytest.raises(ProtocolError):
        ends.initiator.receive(F.ABORT, 1)


@pytest.mark.parametrize("frame", list(F))
def test_an_idle_responder_takes_nothing_but_open(frame: F) -> None:
    if frame is F.OPEN:
        Turns(Role.RESPONDER).receive(frame, 1)
    else:
        with pytest.raises(ProtocolError):
            Turns(Role.RESPONDER).receive(frame, 0)


@pytest.mark.parametrize("epoch", [0, 2, 255])
def test_another_epoch_is_fatal(epoch: int) -> None:
    responder = Turns(Role.RESPONDER)
    with pytest.raises(ProtocolError):
        responder.receive(F.OPEN, epoch)
    responder.receive(F.OPEN, 1)
    with pytest.raises(ProtocolError):
        responder.receive(F.DATA, epoch, 1)


def test_after_a_reset_nothing_may_come() -> None:
    responder = Turns(Role.RESPONDER)
    responder.receive(F.OPEN, 1)
    responder.receive(F.RESET, 1)
    assert responder.initiator is SideState.DEAD
    for frame in (F.DATA, F.END, F.RESET):
        with pytest.raises(ProtocolError):
            responder.receive(frame, 1, 1)


@given(st.lists(st.tuples(st.sampled_from(F), st.integers(0, 3)), max_size=30))
def test_whatever_a_peer_says_the_states_stay_sound(frames: list[tuple[F, int]]) -> None:
    responder = Turns(Role.RESPONDER)
    for frame, epoch in frames:
        try:
            responder.receive(frame, epoch, 1)
        except ProtocolError:
            break
        assert responder.responder in (SideState.IDLE, SideState.DECIDING)


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("initiator", SideState)
@pytest.mark.parametrize("responder", SideState)
def test_plain_data_is_what_the_tables_allow_and_what_counts_nothing(
    role: Role, initiator: SideState, responder: SideState
) -> None:
    turns = Turns(role)
    turns.initiator, turns.responder, turns.epoch = initiator, responder, 7
    # Before the answer the initiator's DATA is counted, so that it isn't plain.
    from_initiator = INITIATOR_TRANSITIONS.get((initiator, F.DATA)) is initiator and responder is not SideState.DECIDING
    from_responder = RESPONDER_TRANSITIONS.get((responder, F.DATA)) is responder
    own, peers = (from_initiator, from_responder) if role is Role.INITIATOR else (from_responder, from_initiator)
    assert turns.own_plain_epoch == (7 if own else -1)
    assert turns.plain_epoch == (7 if peers else -1)
