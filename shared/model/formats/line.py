"""Records as lines of a log: our own JSON, OCSF's, or CEF. Pure.

What isn't chosen isn't loaded: the sidecar keeps its modules few.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum

import msgspec

from shared.model.policy.decision import DecisionRecord


class LineFormat(StrEnum):
    """How a line is written."""

    JSON = "json"
    OCSF = "ocsf"
    CEF = "cef"


def choose_writer(form: LineFormat) -> Callable[[Sequence[DecisionRecord]], bytes]:
    """Return what writes each record as a line with its newline; several at a time cost less."""
    encode_lines = msgspec.json.Encoder().encode_lines
    match form:
        case LineFormat.JSON:
            return encode_lines
        case LineFormat.OCSF:
            from shared.model.formats.ocsf import make_event

            return lambda records: encode_lines([make_event(record) for record in records])
        case LineFormat.CEF:
            from shared.model.formats.cef import write_line

            return lambda records: "".join(f"{write_line(record)}\n" for record in records).encode()
