"""What comes of a probe, in the terms of the kubelet that asked by HTTP. Pure."""

from __future__ import annotations

from dataclasses import dataclass

MAX_BODY_BYTES = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """An answer for the kubelet: 200 to 399 is success.

    Attributes:
        body: for people; cut to ``MAX_BODY_BYTES`` on its way.
        content_type: of a body that is our own and isn't cut; None: plain text.
        has_answer: the application said this itself; else there was no answer, and this is our word for it.
    """

    status: int
    body: bytes = b""
    has_answer: bool = True
    content_type: str | None = None

    @property
    def is_success(self) -> bool:
        """What the kubelet makes of it."""
        return 200 <= self.status < 400


def fail(message: str, status: int = 502) -> Outcome:
    """Make the outcome of a probe that got no answer."""
    return Outcome(status=status, body=message.encode("utf-8", "replace"), has_answer=False)
