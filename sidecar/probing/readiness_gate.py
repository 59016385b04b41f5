"""Withholds an application's first readiness while explicit mode refuses every peer: its program isn't approved.

The kubelet's probe asks whether the application answers, and it does; but every peer would be refused. A Deployment
that took its word would end the old pods, which serve, for new ones, which can't. So a rolling update to a program that
isn't approved waits, and continues by itself once it is.

Never taken back: a pod that was ready with this program stays so, also when the namespace becomes explicit or the
approval is withdrawn: its peers are refused with the reason, and an outage isn't made worse. Not looked at: probes
inside the container (``exec``), ports that are excluded from capture, and pods without readiness probes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.model.identity.program import Program, format_program
from shared.model.policy.decision import Transport
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction, Mode
from sidecar.connection.connection import Refused, record_refused
from sidecar.connection.parties import Parties
from sidecar.listener import Listener, attest_listener, note_listener
from sidecar.probing.life import Life, Serving
from sidecar.probing.outcome import Outcome

if TYPE_CHECKING:
    from shared.model.kubernetes.contract import ProbeTarget
    from sidecar.parts import Sidecar
    from sidecar.sockets.address import Endpoint

_NOBODY: Endpoint = ("", 0)


class ReadinessGate:
    """Remembers of each probe with which program it was ready, and what was recorded last.

    Arguments:
        life: of the sidecar; only while it serves is anything withheld.
    """

    def __init__(self, life: Life) -> None:
        self._life = life
        # By the probe's path, of which there are as many as injection wrote.
        self._ready: dict[str, Program | None] = {}
        self._said: dict[str, tuple[Program | None, int]] = {}

    async def judge(self, target: ProbeTarget, address: str, outcome: Outcome) -> Outcome:
        """Return the outcome, or 503 where it is a readiness that is withheld; that leaves one decision record.

        Arguments:
            address: the pod's, at which the probe was performed.
        """
        stage = self._life.stage
        if not isinstance(stage, Serving) or target.kind != "readiness" or not outcome.is_success:
            return outcome
        sidecar = stage.sidecar
        listener = await attest_listener(sidecar, (address, target.port))
        program = listener.attestation.program if listener.attestation is not None else None
        policy, path = sidecar.policies.own, target.request_path
        is_approved = program is not None and policy.find_approval(sidecar.workload, program) is not None
        was_ready = path in self._ready and program in (None, self._ready[path])
        if is_approved or was_ready or sidecar.policies.mode is Mode.PERMISSIVE:
            self._ready[path] = program or self._ready.get(path)
            self._said.pop(path, None)
            return outcome
        reason = listener.why or Reason.LISTENER_NOT_APPROVED
        said = (program, policy.state.version)
        if self._said.get(path) != said:
            self._said[path] = said
            _record(sidecar, (address, target.port), listener, reason)
        # Anything that reaches the pod may ask: only the record says which program it is.
        return Outcome(status=503, body=f"readiness is withheld: {reason}\n".encode())


def _record(sidecar: Sidecar, destination: Endpoint, listener: Listener, reason: Reason) -> None:
    """Record a refused connection without a source: peers would be refused, and decisions are where people look."""
    parties = Parties(Direction.INGRESS, source=_NOBODY, destination=destination)
    note_listener(sidecar, parties, listener)
    refused = Refused(reason, f"readiness is withheld: {_describe(sidecar, listener, reason)}")
    record_refused(sidecar, parties, refused, transport=Transport.NONE)


def _describe(sidecar: Sidecar, listener: Listener, reason: Reason) -> str:
    if listener.attestation is None:
        return f"{reason}: {listener.detail}" if listener.detail else reason
    attestation = listener.attestation
    program = format_program(attestation.program)
    return f"{attestation.process.shown_path} isn't approved; touchmark program approve {sidecar.workload} {program}"
