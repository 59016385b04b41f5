"""A record as one line of a log: our own JSON, OCSF's, or CEF. Pure.

What isn't chosen isn't loaded: the sidecar keeps its modules few.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import msgspec

from shared.model.policy.decision import DecisionRecord


class LineFormat(StrEnum):
    """How a line is written."""

    JSON = "json"
    OCSF = "ocsf"
    CEF = "cef"


def choose_writer(form: LineFormat) -> Callable[[DecisionRecord], bytes]:
    """Return what writes a record as a line, without its newline."""
    encode = msgspec.json.Encoder().encode
    match form:
        case LineFormat.JSON:
            return encode
        case LineFormat.OCSF:
            from shared.model.formats.ocsf import make_event

            return lambda record: encode(make_event(record))
        case LineFormat.CEF:
            from shared.model.formats.cef import write_line

            return lambda record: write_line(record).encode()
