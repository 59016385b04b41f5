"""What is logged where a certificate ends before its time, because its authority does. I/O: the log.

Belongs here: that line. Doesn't: how long a certificate lives (``sign.py``). Apart from it, since the signing process
loads that, and the log's library would be half of all it loads.
"""

from __future__ import annotations

import structlog

_log = structlog.get_logger(__name__)


def log_truncation(authority_id: str, *, now: float, lifetime_s: float, end: float) -> None:
    """Log a leaf that was given less than its lifetime; nothing else.

    Arguments:
        now, end: seconds since the epoch: when it was signed, and its end, in whole seconds as a certificate has it.
    """
    if end < int(now + lifetime_s):
        _log.warning("leaf_truncated", authority=authority_id, wanted_s=lifetime_s, given_s=round(end - now), end=end)
