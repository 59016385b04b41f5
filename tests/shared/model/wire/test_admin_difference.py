"""What other policies would change goes over the wire as it is (``shared.model.wire.admin_difference``)."""

from __future__ import annotations

import msgspec

from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction
from shared.model.wire.admin_difference import DecidedOtherwise, PolicyDifference


def test_an_answer_is_read_as_it_was_written() -> None:
    denied = DecidedOtherwise(
        before="allow",
        after="deny",
        side=Direction.INGRESS,
        reason=next(iter(Reason)),
        rule="no-web",
        source="shop/web",
        source_program="",
        destination="shop/db",
        destination_program="",
        port=5432,
        service="",
        path="/usr/bin/psql",
        connections=3,
        last_seen=1.0,
    )
    answer = PolicyDifference(
        namespaces=("shop",), since=0.0, denied=(denied,), allowed=(), unchanged=2, unknown=1, unknowns=("lost",)
    )
    assert msgspec.json.decode(msgspec.json.encode(answer), type=PolicyDifference) == answer
