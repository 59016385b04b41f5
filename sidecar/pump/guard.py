"""Who may stop a pump before it forwards: bytes pass only on a look at the local program that is fresh. No I/O.

Belongs here: what a pump asks. Doesn't: the look (``sidecar/attest/program_look.py``), and what follows when the
program has changed (``sidecar/connection/connection.py``).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from sidecar.native._loop import Proof


class Guard(Protocol):
    """Asked before bytes are forwarded, in either direction."""

    @property
    def fresh_until(self) -> float:
        """Up to when (``time.monotonic``) bytes may pass without ``look_again``."""

    def look_again(self) -> bool:
        """Look at the program; false when the connection was closed for what was seen. Never waits."""

    def find_proof(self) -> Proof | None:
        """Return what another thread looks at instead, for as long as this guard goes by it; None: nothing has to be.

        Where a look there isn't plainly what it should be, this guard is asked.

        Raises:
            LookupError: it couldn't look.
        """


class _Unguarded:
    fresh_until = math.inf

    def look_again(self) -> bool:
        """Nothing is looked at."""
        return True

    def find_proof(self) -> None:
        """Nothing is looked at."""


UNGUARDED: Final[Guard] = _Unguarded()
