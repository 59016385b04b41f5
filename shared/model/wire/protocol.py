"""The protocols of the stream between sidecar and CA: which ones this release speaks, and how two ends agree on one.

A release speaks its own protocol and the one before, so that CA and sidecars one minor version apart work together, in
whichever order they are upgraded. They agree by WebSocket subprotocols (RFC 6455, section 1.9): the sidecar offers
what it speaks, the CA takes the newest of these that it speaks too. Release 0.1 offered none: that is protocol 1.

Within a protocol the messages never change, and what isn't in it is refused. What a protocol adds, and what is sent
to an older peer instead, is in ``messages.py``. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from shared.model.errors import ProtocolError

PROTOCOL: Final = 2
OLDEST_PROTOCOL: Final = 1
_PREFIX: Final = "touchmark."
_HINT: Final = "a CA and its sidecars may be one minor version apart: upgrade in steps, see docs/how-to/kubernetes.md"


def name_subprotocol(protocol: int) -> str:
    """Return the name of a protocol in the WebSocket's handshake."""
    return f"{_PREFIX}{protocol}"


def list_subprotocols() -> tuple[str, ...]:
    """Return the subprotocols to offer, the newest first."""
    return tuple(name_subprotocol(number) for number in range(PROTOCOL, OLDEST_PROTOCOL - 1, -1))


def choose_protocol(offered: Iterable[str]) -> int:
    """Return the newest protocol that both ends speak, given the subprotocols that a sidecar offers.

    Raises:
        ProtocolError: there is none.
    """
    names = frozenset(name.strip() for name in offered)
    if not names:
        return _first("the sidecar")
    for number in range(PROTOCOL, OLDEST_PROTOCOL - 1, -1):
        if name_subprotocol(number) in names:
            return number
    raise ProtocolError(
        f"the sidecar speaks {', '.join(sorted(names))[:200]}, and this CA {', '.join(list_subprotocols())}", hint=_HINT
    )


def read_chosen_protocol(chosen: str | None) -> int:
    """Return the protocol that the CA chose; None: it chose none, as release 0.1 did.

    Raises:
        ProtocolError: this release doesn't speak it.
    """
    if chosen is None:
        return _first("the CA")
    if chosen not in list_subprotocols():
        raise ProtocolError(f"the CA chose a protocol that wasn't offered: {chosen[:80]}", hint=_HINT)
    return int(chosen.removeprefix(_PREFIX))


def _first(who: str) -> int:
    if OLDEST_PROTOCOL > 1:
        raise ProtocolError(
            f"{who} speaks the protocol of release 0.1, which this release doesn't any more", hint=_HINT
        )
    return 1
