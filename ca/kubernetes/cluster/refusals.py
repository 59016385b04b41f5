"""Refused enrolments of pods: counted, and the last ones remembered for people. No I/O.

Belongs here: what `touchmark doctor --cluster` shows of them. Doesn't: refusing (``ca/authenticate/pod.py``).
"""

from __future__ import annotations

from collections import deque

from ca.metrics import Metrics
from shared.model.errors import TouchmarkError
from shared.model.wire.admin import MAX_REFUSED_ENROLMENTS, RefusedEnrolment

_MAX_CHARACTERS = 500


class Refusals:
    """The last ``MAX_REFUSED_ENROLMENTS``, newest first, and how many there have been."""

    def __init__(self, metrics: Metrics) -> None:
        self.total = 0
        self._metrics = metrics
        self._last: deque[RefusedEnrolment] = deque(maxlen=MAX_REFUSED_ENROLMENTS)

    def __len__(self) -> int:
        return len(self._last)

    def list_newest(self) -> tuple[RefusedEnrolment, ...]:
        """Return those that are remembered."""
        return tuple(reversed(self._last))

    def note(self, error: TouchmarkError, *, claimed: str, now: float) -> None:
        """Remember that a sidecar was refused.

        Arguments:
            error: with a ``subject`` where it has one (``EnrolmentRefused``).
            claimed: the instance that the sidecar called itself, unverified.
        """
        reason = str(error.reason)
        subject = getattr(error, "subject", None)
        self.total += 1
        self._metrics.enrolments_refused.labels(reason=reason).inc()
        self._last.append(
            RefusedEnrolment(
                time=now,
                reason=reason,
                message=error.message[:_MAX_CHARACTERS],
                hint=error.hint[:_MAX_CHARACTERS],
                namespace=getattr(subject, "namespace", ""),
                service_account=getattr(subject, "service_account", ""),
                pod=getattr(subject, "pod", ""),
                claimed=claimed[:64],
            )
        )
