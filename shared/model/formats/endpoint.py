"""The parts of a record that every format splits: addresses, what became of it, how grave it is. Pure."""

from __future__ import annotations

from enum import IntEnum

from shared.model.policy.decision import Answer, DecisionRecord


class Gravity(IntEnum):
    """How grave a record is: allowed, allowed only by permissive mode, refused."""

    ALLOWED = 0
    WOULD_DENY = 1
    DENIED = 2


def weigh(record: DecisionRecord) -> Gravity:
    """Return how grave a record is."""
    if record.answer is Answer.DENY:
        return Gravity.DENIED
    return Gravity.WOULD_DENY if record.would_deny else Gravity.ALLOWED


def name_verdict(record: DecisionRecord) -> str:
    """Return ``allow``, ``would_deny`` or ``deny``."""
    return ("allow", "would_deny", "deny")[weigh(record)]


def split_address(text: str) -> tuple[str, int]:
    """Return host and port of ``198.18.0.2:5432`` or ``[2001:db8::1]:5432``; port 0 where there is none."""
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()):
        return text.strip("[]"), 0
    return host.strip("[]"), int(port)
