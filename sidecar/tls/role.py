"""Which end of a TLS connection this is. Pure."""

from __future__ import annotations

from enum import Enum, auto


class Role(Enum):
    """The end that dialled, or the one that accepted; on a tunnel also the end that opens turns, or answers them."""

    INITIATOR = auto()
    RESPONDER = auto()
