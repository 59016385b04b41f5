"""What a namespace requires of its own programs' processes and sockets, beyond their digests, in either mode.

Belongs here: whether it requires something, and what is refused then. Doesn't: how it is found out (``attest``), what
the program has loaded (``sidecar/code_check.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from shared.model.policy.decision import Origin
from shared.model.policy.evaluate import NamespacePolicy
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Requirement
from sidecar.attest.facts import AttestationError

if TYPE_CHECKING:
    from sidecar.attest.facts import Attestation


class OwnSockets(Protocol):
    """Tells who made a socket."""

    async def refuse_given(self, attestation: Attestation, listener: Attestation | None = None) -> None:
        """Raise an ``AttestationError`` where another program may have made it."""


def check_origin(policy: NamespacePolicy, attestation: Attestation) -> None:
    """Refuse a program that doesn't descend from its container's first process, where its namespace requires that.

    Raises:
        AttestationError: it doesn't, or that isn't known (``process_origin``).
    """
    if Requirement.CONTAINER_ORIGIN not in policy.state.requires:
        return
    if attestation.origin is not Origin.CONTAINER:
        found = "an exec session" if attestation.origin is Origin.EXEC else "an unknown place"
        message = f"process {attestation.process.pid} comes from {found}, not from its container's first process"
        raise AttestationError(message, reason=Reason.PROCESS_ORIGIN, process=attestation.process)


async def check_own_socket(
    policy: NamespacePolicy, attestor: OwnSockets, attestation: Attestation, listener: Attestation | None = None
) -> None:
    """Refuse a socket that another program may have made and given to this one, where the namespace requires that.

    Asked of sockets that dial or were accepted, not of listeners: who accepts from one is asked for each connection.

    Arguments:
        listener: of an accepted socket, what listened when it was dialled.

    Raises:
        AttestationError: another program may have made it (``socket_not_own``).
    """
    if Requirement.OWN_SOCKETS in policy.state.requires:
        await attestor.refuse_given(attestation, listener)
