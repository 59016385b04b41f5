"""The one decision record that tests begin with; each changes what it is about."""

from __future__ import annotations

from typing import Any

import msgspec

from shared.model.policy.decision import Answer, DecisionRecord, Ending, PartyRecord, Phase, ProcessRecord, Transport
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction, Mode


def make_record(**changes: Any) -> DecisionRecord:
    """Return the record of a connection that shop/web's sidecar refused in explicit mode, with these changes."""
    record = DecisionRecord(
        time=1_800_000_000.0,
        namespace="shop",
        sidecar="web-1",
        phase=Phase.END,
        direction=Direction.EGRESS,
        answer=Answer.DENY,
        would_deny=False,
        reason=Reason.PROGRAM_NOT_APPROVED,
        rule="",
        policy_version=1,
        mode=Mode.EXPLICIT,
        weak=False,
        source=PartyRecord(address="198.18.0.2:40000", workload="shop/web"),
        destination=PartyRecord(address="198.18.0.3:5432"),
        process=ProcessRecord(),
        port=5432,
        transport=Transport.NONE,
        tunnel="",
        connection="c1",
        issuer="",
        bytes_sent=0,
        bytes_received=0,
        duration_s=0.0,
        ending=Ending.REFUSED,
    )
    return msgspec.structs.replace(record, **changes)
