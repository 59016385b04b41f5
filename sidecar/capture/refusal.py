"""The record of a connection that capture itself refuses, before any story begins. Pure: the time is an argument."""

from __future__ import annotations

from shared.model.policy.decision import Answer, DecisionRecord, Ending, PartyRecord, Phase, ProcessRecord, Transport
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction, Mode, NamespaceState
from sidecar.sockets.address import Endpoint, format_endpoint


def record_refusal(
    *, direction: Direction, reason: Reason, source: Endpoint, destination: Endpoint, state: NamespaceState,
    mode: Mode, sidecar: str, connection: str, now: float,
) -> DecisionRecord:  # fmt: skip
    """Make the one record of a refused connection.

    Arguments:
        state: of the sidecar's own namespace.
        mode: of its own workload.
        destination: as far as it is known.
    """
    return DecisionRecord(
        time=now,
        namespace=state.namespace,
        sidecar=sidecar,
        phase=Phase.END,
        direction=direction,
        answer=Answer.DENY,
        would_deny=False,
        reason=reason,
        rule="",
        policy_version=state.version,
        mode=mode,
        weak=False,
        source=PartyRecord(address=format_endpoint(source), why=reason),
        destination=PartyRecord(address=format_endpoint(destination)),
        process=ProcessRecord(),
        port=destination[1],
        transport=Transport.NONE,
        tunnel="",
        connection=connection,
        issuer="",
        bytes_sent=0,
        bytes_received=0,
        duration_s=0.0,
        ending=Ending.REFUSED,
    )
