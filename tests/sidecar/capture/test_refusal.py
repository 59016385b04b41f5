"""The record of what capture refuses."""

from __future__ import annotations

from shared.model.policy.decision import Answer, Ending
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction, Mode, NamespaceState
from sidecar.capture.refusal import record_refusal


def test_a_refusal_is_a_denial_of_the_own_namespace_at_its_version() -> None:
    record = record_refusal(
        direction=Direction.EGRESS,
        reason=Reason.DIRECT_CONNECTION,
        source=("198.18.0.1", 1),
        destination=("127.0.0.1", 15001),
        state=NamespaceState(namespace="shop", version=9),
        mode=Mode.EXPLICIT,
        sidecar="one",
        connection="c",
        now=5.0,
    )
    assert (record.answer, record.ending, record.reason) == (Answer.DENY, Ending.REFUSED, Reason.DIRECT_CONNECTION)
    assert (record.namespace, record.policy_version, record.port, record.time) == ("shop", 9, 15001, 5.0)
    assert record.mode is Mode.EXPLICIT, "the own workload's, whatever its namespace's"
