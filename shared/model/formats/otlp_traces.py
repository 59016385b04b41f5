"""Spans of the CA as OpenTelemetry traces: the JSON of OTLP/HTTP, and W3C's ``traceparent``. Pure.

Source: the OTLP specification 1.7 (JSON Protobuf encoding: identifiers in hex, 64-bit numbers as strings) and W3C Trace
Context, section 3.2.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final

from shared.model.formats.otlp import make_resource, write_attributes
from shared.model.version import VERSION

# Version 00; a later one may have more fields, which are left alone.
_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
MAX_TRACEPARENT_CHARACTERS: Final = 512
_SAMPLED: Final = 1
_FAILED: Final = 2  # STATUS_CODE_ERROR


class SpanKind(IntEnum):
    """As OTLP numbers them."""

    INTERNAL = 1
    SERVER = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """What a caller says of its own trace.

    Attributes:
        trace_id, span_id: hex.
        is_sampled: the caller records this trace.
    """

    trace_id: str
    span_id: str
    is_sampled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One thing that was done, and how long it took.

    Attributes:
        trace_id, span_id, parent_id: hex; ``parent_id`` is empty for the first of a trace.
        begin_ns, end_ns: since the epoch.
        fault: the code of the error by which it ended; empty when it went well.
    """

    trace_id: str
    span_id: str
    name: str
    begin_ns: int
    end_ns: int
    parent_id: str = ""
    kind: SpanKind = SpanKind.INTERNAL
    attributes: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    fault: str = ""


def read_traceparent(text: str) -> Parent | None:
    """Read the header; None for one that can't be used, which W3C has ignored."""
    found = _TRACEPARENT.fullmatch(text) if len(text) <= MAX_TRACEPARENT_CHARACTERS else None
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return Parent(trace_id=trace_id, span_id=span_id, is_sampled=bool(int(flags, 16) & _SAMPLED))


def make_trace_request(spans: Iterable[Span], *, instance: str) -> dict[str, Any]:
    """Return an ``ExportTraceServiceRequest`` of spans.

    Arguments:
        instance: of the CA that sends them.
    """
    scope = {"name": "touchmark.ca", "version": VERSION}
    return {
        "resourceSpans": [
            {
                "resource": make_resource(instance),
                "scopeSpans": [{"scope": scope, "spans": [_make_span(span) for span in spans]}],
            }
        ]
    }


def _make_span(span: Span) -> dict[str, Any]:
    status = {"status": {"code": _FAILED, "message": span.fault}} if span.fault else {}
    parent = {"parentSpanId": span.parent_id} if span.parent_id else {}
    return {
        "traceId": span.trace_id,
        "spanId": span.span_id,
        **parent,
        "name": span.name,
        "kind": int(span.kind),
        "startTimeUnixNano": str(span.begin_ns),
        "endTimeUnixNano": str(span.end_ns),
        "attributes": write_attributes(span.attributes),
        **status,
    }
