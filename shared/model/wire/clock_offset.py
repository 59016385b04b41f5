"""How the difference between a sidecar's clock and the CA's is told, by either end and by the command line. Pure.

Doesn't belong here: how it is measured (``sidecar/control/clock.py`` from a welcome; ``ca/store/sidecars.py`` from a
registration, one way).
"""

from __future__ import annotations

from typing import Final

# Far less than the two minutes by which certificates are back-dated, more than a slow stream takes to open.
NOTABLE_S: Final = 10.0
HINT: Final = "set this machine's clock and the CA's, for example by NTP (`chronyc tracking`, `timedatectl`)"


def is_notable(offset_s: float | None) -> bool:
    """Return whether the clocks differ by so much that an operator is told."""
    return offset_s is not None and abs(offset_s) >= NOTABLE_S


def describe_offset(whose: str, offset_s: float) -> str:
    """Write ``this machine's clock is 300 s behind the CA's``."""
    return f"{whose} clock is {abs(offset_s):.0f} s {'behind' if offset_s < 0 else 'ahead of'} the CA's"
