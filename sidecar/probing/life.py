"""Where a sidecar is in its life, as its probes see it: joining, then serving, then draining. Pure state.

Belongs here: the stages, each with what is known in it. Doesn't: what a probe answers in each (``readiness.py``,
``readiness_gate.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sidecar.parts import Sidecar


@dataclass(frozen=True, slots=True, kw_only=True)
class Joining:
    """The CA hasn't welcomed the sidecar yet: it knows no policy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """The sidecar accepts connections.

    Attributes:
        has_expired: tells whether the sidecar's own certificate has ended.
    """

    sidecar: Sidecar
    has_expired: Callable[[], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Draining:
    """The sidecar ends."""


Stage = Joining | Serving | Draining


class Life:
    """Goes from one stage to the next."""

    def __init__(self) -> None:
        self._stage: Stage = Joining()

    @property
    def stage(self) -> Stage:
        """The current stage."""
        return self._stage

    def begin_serving(self, sidecar: Sidecar, *, has_expired: Callable[[], bool]) -> None:
        """The sidecar has joined and accepts connections."""
        self._stage = Serving(sidecar=sidecar, has_expired=has_expired)

    def begin_draining(self) -> None:
        """The sidecar ends."""
        self._stage = Draining()
