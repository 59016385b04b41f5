"""What must be proven of this side's program before a connection's first byte, and before the first one answered.

Belongs here: waiting for the first search for holders, and finding out who accepted an inbound connection. Doesn't:
attestation itself (``attestor.py``), and what is looked at again while a connection lives (``connection/``,
``runtime/live_checks.py``).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Mode
from sidecar.attest.facts import AttestationError
from sidecar.connection.connection import Refused

if TYPE_CHECKING:
    from sidecar.connection.connection import Connection
    from sidecar.parts import Sidecar


async def await_clearance(sidecar: Sidecar, connection: Connection) -> None:
    """In explicit mode, see that nobody but the attested program holds the socket, before a byte passes.

    A process that a pass has cleared lately doesn't wait.

    Raises:
        Refused: another program holds it as well (``socket_shared``), or that couldn't be told (``holders_unknown``).
    """
    attestation = connection.parties.attestation
    if attestation is None or sidecar.policies.own.state.mode is not Mode.EXPLICIT:
        return
    if sidecar.attestor.is_clear(attestation):
        return
    try:
        async with asyncio.timeout(sidecar.limits.attest_s):
            await sidecar.attestor.clear(attestation)
    except AttestationError as error:
        raise Refused(error.reason, error.message) from error
    except TimeoutError as error:
        raise Refused(Reason.HOLDERS_UNKNOWN, "the search for other holders of the socket took too long") from error
    connection.check_not_revoked()
