"""Records of each kind, as formats are tested with them."""

from __future__ import annotations

from shared.model.policy.decision import Answer, DecisionRecord, Ending, PartyRecord, Phase, ProcessRecord, Transport
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction
from tests.shared.model.policy.records import make_record

DIGEST = "ab" * 32
PROGRAM = f"sha256:{DIGEST}"
DENIED = make_record(
    detail="a=b|c\\d\nnext", process=ProcessRecord(pid=7, uid=1000, path="/usr/bin/curl", digest=PROGRAM)
)
ALLOWED = make_record(
    answer=Answer.ALLOW,
    reason=Reason.ALLOW_RULE,
    rule="shop/from-bank",
    direction=Direction.INGRESS,
    source=PartyRecord(
        address="[2001:db8::1]:40000", workload="bank/teller", program=PROGRAM, identity="spiffe://d/ns/bank/sa/teller"
    ),
    destination=PartyRecord(address="[2001:db8::2]:5432", workload="shop/web", program=PROGRAM, approved=True),
    transport=Transport.TUNNEL,
    ending=Ending.FINISHED,
    bytes_sent=10,
    bytes_received=20,
    duration_s=1.5,
    service="shop/db:5432",
    count=3,
)
STARTED = make_record(
    answer=Answer.ALLOW, would_deny=True, reason=Reason.NO_RULE, phase=Phase.START, ending=Ending.NONE
)
EVERY: tuple[DecisionRecord, ...] = (DENIED, ALLOWED, STARTED)
