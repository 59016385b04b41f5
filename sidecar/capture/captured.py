"""What capture hands to the stories: one accepted connection and where it comes from and was going.

Belongs here: the value. Doesn't: accepting (``accept_loop.py``). Pure.
"""

from __future__ import annotations

import socket

import msgspec

from sidecar.attest.facts import Attestation, AttestationError
from sidecar.capture.claims import Claim
from sidecar.sockets.address import Endpoint


class Captured(msgspec.Struct, frozen=True, kw_only=True):
    """One connection of an application, accepted by the sidecar.

    Attributes:
        connection: connected, non-blocking, TCP_NODELAY; the receiver of this value closes it.
        source: the peer's address as the sidecar sees it.
        destination: where the connection was going, before capture.
        app_destination: what the socket of the application that dialled has as its peer: ``destination`` under
            redirect, the listener's own address for an explicit listener. Attestation asks the kernel with it.
        claim: that no other captured connection may contest; None of what came from outside.
        early: what a look at the program said when the connection was accepted; None: that has to be asked.
        may_be_remote: clients outside the pod reach the listener as well.
    """

    connection: socket.socket
    source: Endpoint
    destination: Endpoint
    app_destination: Endpoint
    claim: Claim | None = None
    early: Attestation | AttestationError | None = None
    may_be_remote: bool = False
