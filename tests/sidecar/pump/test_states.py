"""The states of a pump: what their tables allow, and that nothing else passes."""

from __future__ import annotations

from itertools import product

import pytest

from sidecar.pump.states import (
    ANSWER_TRANSITIONS,
    FLOW_TRANSITIONS,
    Answer,
    Flow,
    change_answer,
    change_flow,
)


@pytest.mark.parametrize(("before", "after"), list(product(Flow, Flow)), ids=lambda flow: flow.name)
def test_a_flow_changes_as_its_table_says(before: Flow, after: Flow) -> None:
    if after in FLOW_TRANSITIONS[before]:
        assert change_flow(before, after) is after
    else:
        with pytest.raises(RuntimeError, match=f"from {before.name} to {after.name}"):
            change_flow(before, after)


@pytest.mark.parametrize(("before", "after"), list(product(Answer, Answer)), ids=lambda answer: answer.name)
def test_an_open_is_answered_once(before: Answer, after: Answer) -> None:
    if after in ANSWER_TRANSITIONS[before]:
        assert change_answer(before, after) is after
    else:
        with pytest.raises(RuntimeError, match=f"from {before.name} to {after.name}"):
            change_answer(before, after)


def test_every_flow_can_stop_and_none_leaves_that() -> None:
    assert [flow for flow in Flow if Flow.STOPPED not in FLOW_TRANSITIONS[flow]] == [Flow.STOPPED]
    assert not FLOW_TRANSITIONS[Flow.STOPPED]


def test_a_flow_that_has_told_its_sink_the_end_carries_nothing_more() -> None:
    assert FLOW_TRANSITIONS[Flow.ENDED] == {Flow.STOPPED}
    assert Flow.OPEN not in FLOW_TRANSITIONS[Flow.ENDING]
