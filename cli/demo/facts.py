"""What the demo observed, each fact derived from what happened; None where this kind of run can't show it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class Facts:
    """The facts, in the order in which they are observed.

    Attributes:
        capture: ``redirect`` or ``listeners``.
        approved_permissive: the approved client got its answer in permissive mode.
        intruder_permissive_would_deny: the altered client got its answer too, and a decision marks it.
        approved_explicit: the approved client got its answer in explicit mode.
        intruder_explicit_refused: the altered client got none, and a decision denies it.
        intruder_reason: the reason code of that decision.
        outsider_refused: a plain connection from outside got no answer, and a decision denies it.
        plaintext_on_wire: whether the marker was found between the sidecars, *given that* it was found beside them.
        rotation_requests: requests while the issuer was rotated; ``rotation_failures``: those without their answer.
        decisions: how many decisions the CA's log holds at the end.
    """

    capture: str | None = None
    approved_permissive: bool | None = None
    intruder_permissive_would_deny: bool | None = None
    approved_explicit: bool | None = None
    intruder_explicit_refused: bool | None = None
    intruder_reason: str | None = None
    outsider_refused: bool | None = None
    plaintext_on_wire: bool | None = None
    rotation_requests: int | None = None
    rotation_failures: int | None = None
    decisions: int | None = None

    def find_contradictions(self) -> Iterator[str]:
        """Yield what was observed and contradicts Touchmark's claims. What wasn't observable doesn't."""
        for name in ("approved_permissive", "intruder_permissive_would_deny", "approved_explicit"):
            if getattr(self, name) is not True:
                yield f"{name} is {getattr(self, name)}"
        for name in ("intruder_explicit_refused", "outsider_refused"):
            if getattr(self, name) is not True:
                yield f"{name} is {getattr(self, name)}"
        if self.intruder_reason != "program_not_approved":
            yield f"intruder_reason is {self.intruder_reason}"
        if self.plaintext_on_wire:
            yield "the marker was found on the wire between the sidecars"
        if not self.rotation_requests:
            yield "no request ran while the issuer was rotated"
        if self.rotation_failures:
            yield f"{self.rotation_failures} requests failed while the issuer was rotated"
        if not self.decisions:
            yield "no decision was recorded"
