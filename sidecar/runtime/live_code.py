"""What live connections' programs have loaded, looked at again and again, where their approvals name it.

Belongs here: the rhythm, and what follows for live connections. Doesn't: new ones (``sidecar/code_check.py``), one look
(``sidecar/loaded``).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from shared.model.identity.loaded_code import CodeCheck
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Mode
from sidecar.attest.facts import AttestationError
from sidecar.code_check import find_checked, find_foreign

if TYPE_CHECKING:
    from sidecar.attest.facts import Attestation
    from sidecar.events import Events
    from sidecar.parts import Sidecar

_PERIOD_S = 1.0
# Looks take at most a twentieth of a core: a round over 500 programs whose code is checked takes about five seconds.
_REST_FACTOR = 20.0
# Whose process this is no longer is seen, and judged, by the looks at programs and holders.
_OF_OTHERS = frozenset({Reason.PROCESS_VANISHED, Reason.PROGRAM_CHANGED})


async def watch_code(sidecar: Sidecar, events: Events) -> None:
    """See that live connections' programs have loaded nothing but what is approved with them, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(_PERIOD_S)
        sidecar.code.forget_ended()
        for attestation in sidecar.connections.list_attestations():
            started = loop.time()
            if await _look_again(sidecar, attestation, events):
                await asyncio.sleep(_REST_FACTOR * (loop.time() - started))


async def _look_again(sidecar: Sidecar, attestation: Attestation, events: Events) -> bool:
    """Look once, if its approval asks for it; return whether it did."""
    if (approval := find_checked(sidecar, attestation)) is None:
        return False
    try:
        seen = await sidecar.code.look(attestation.execution)
    except AttestationError as error:
        if approval.code is CodeCheck.ENFORCE and error.reason not in _OF_OTHERS:
            _close(sidecar, attestation, error.reason, error.message, events)
        return True
    # The policy may have changed while it was looked at: the next round takes the new one.
    foreign = find_foreign(sidecar.policies.own, approval, seen)
    if foreign is None:
        sidecar.credentials.note_code(attestation.program, seen.code)
    elif approval.code is CodeCheck.ENFORCE:
        _close(sidecar, attestation, Reason.CODE_NOT_APPROVED, str(foreign), events)
    else:
        _tell(sidecar, attestation, Reason.CODE_NOT_APPROVED, str(foreign), events)
    return True


def _close(sidecar: Sidecar, attestation: Attestation, reason: Reason, message: str, events: Events) -> None:
    """Close the program's connections in explicit mode; in permissive mode they go on, and it is told."""
    if sidecar.policies.mode is not Mode.EXPLICIT:
        _tell(sidecar, attestation, reason, message, events)
        for connection in sidecar.connections.list_of(attestation.execution):
            connection.note_unproven(reason, message)
        return
    for connection in sidecar.connections.list_of(attestation.execution):
        connection.revoke(reason, message)


def _tell(sidecar: Sidecar, attestation: Attestation, reason: Reason, message: str, events: Events) -> None:
    """Tell of each connection once, and have its record say so."""
    for connection in sidecar.connections.list_of(attestation.execution):
        if reason not in connection.unproven:
            connection.unproven |= {reason}
            connection.detail = connection.detail or message
            events.emit("program_not_proven", connection=connection.id, reason=reason, message=message)
