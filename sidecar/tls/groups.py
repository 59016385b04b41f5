"""Which key exchange a tunnel's handshake makes, and the check afterwards that it was this one.

Belongs here: the two groups, and how OpenSSL is told. Doesn't: what else a context demands (``contexts.py``), the
secrets that a handshake may rest on (``resumption.py``). Foreign peers choose among OpenSSL's default groups.

A whole handshake is hybrid, and nothing else: OpenSSL's defaults would also make and send a second key share, and
accept any group. One that rests on a secret is made by X25519: the secret comes from a hybrid exchange, is used once,
and enters the keys, so that whoever records both has to break ML-KEM as well; X25519 adds keys of this connection
alone. It costs less, and OpenSSL keeps half as much memory of such a tunnel.

Source: RFC 8446, sections 4.2.7 to 4.2.9; RFC 9257, section 6; SSL_CTX_set1_curves_list(3), SSL_get0_group_name(3).
"""

from __future__ import annotations

from typing import Any, Final

from OpenSSL import SSL
from OpenSSL._util import lib as _lib

from shared.model.policy.reasons import Reason
from sidecar.tls.handshake import HandshakeError

HYBRID: Final = "X25519MLKEM768"
CLASSIC: Final = "X25519"
# A client sends a key share for the first one alone. A server that hasn't the secret asks for the other one's.
_EITHER: Final = f"{CLASSIC}:{HYBRID}".encode()


def require_hybrid(context: SSL.Context) -> None:
    """Have each connection of this context offer and accept the hybrid group alone.

    Raises:
        RuntimeError: this OpenSSL doesn't have it.
    """
    inner: Any = context
    if _lib.SSL_CTX_set1_curves_list(inner._context, HYBRID.encode()) != 1:
        raise RuntimeError(f"this OpenSSL has no {HYBRID}, which tunnels need: it came with OpenSSL 3.5")


def allow_classic(tls: SSL.Connection) -> None:
    """Have one connection that has a secret make its key exchange by X25519, or by the hybrid one.

    What this does *not* ensure: that the handshake rests on the secret. ``check_group`` has to follow.
    """
    connection: Any = tls
    if _lib.SSL_set1_curves_list(connection._ssl, _EITHER) != 1:
        raise RuntimeError(f"this OpenSSL has no {HYBRID} or no {CLASSIC}")


def check_group(tls: SSL.Connection, *, rests_on_secret: bool) -> None:
    """After the handshake: check which key exchange it was.

    Raises:
        HandshakeError: ``handshake_failed``: it wasn't the hybrid one, in a handshake that rests on no secret.
    """
    # OpenSSL writes "x25519" here.
    made = (tls.get_group_name() or "none").lower()
    if made != HYBRID.lower() and not (rests_on_secret and made == CLASSIC.lower()):
        raise HandshakeError(f"the key exchange was {made}, not {HYBRID}", reason=Reason.HANDSHAKE_FAILED)
