"""OTLP's JSON of spans, and which ``traceparent`` counts."""

from __future__ import annotations

from typing import Any

import pytest

from shared.model.formats.otlp_traces import Parent, Span, SpanKind, make_trace_request, read_traceparent

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"


def make_span(**changes: Any) -> Span:
    return Span(**{"trace_id": TRACE, "span_id": SPAN, "name": "sign", "begin_ns": 1, "end_ns": 2, **changes})


def test_a_span_is_written_as_otlp_has_it() -> None:
    parent = make_span(kind=SpanKind.SERVER, attributes={"http.route": "/v1/policies", "n": 7, "is": True})
    child = make_span(span_id="b7ad6b7169203331", parent_id=SPAN, fault="conflict")
    request = make_trace_request([parent, child], instance="ca-1")
    [resource] = request["resourceSpans"]
    assert {"key": "service.instance.id", "value": {"stringValue": "ca-1"}} in resource["resource"]["attributes"]
    first, second = resource["scopeSpans"][0]["spans"]
    assert first == {
        "traceId": TRACE,
        "spanId": SPAN,
        "name": "sign",
        "kind": 2,
        "startTimeUnixNano": "1",
        "endTimeUnixNano": "2",
        "attributes": [
            {"key": "http.route", "value": {"stringValue": "/v1/policies"}},
            {"key": "n", "value": {"intValue": "7"}},
            {"key": "is", "value": {"boolValue": True}},
        ],
    }
    assert (second["parentSpanId"], second["kind"]) == (SPAN, 1)
    assert second["status"] == {"code": 2, "message": "conflict"}


@pytest.mark.parametrize(
    ("text", "is_sampled"),
    [(f"00-{TRACE}-{SPAN}-01", True), (f"00-{TRACE}-{SPAN}-00", False), (f"42-{TRACE}-{SPAN}-03-more", True)],
)
def test_a_traceparent_is_read_also_of_a_later_version(text: str, is_sampled: bool) -> None:
    assert read_traceparent(text) == Parent(trace_id=TRACE, span_id=SPAN, is_sampled=is_sampled)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}",
        f"42-{TRACE}-{SPAN}-01-{'x' * 999}",
        f"00-{TRACE}-{SPAN}-01\n",
    ],
)
def test_any_other_is_ignored(text: str) -> None:
    assert read_traceparent(text) is None
