"""Which traces begin, what their spans say, and that nothing happens where nothing is traced."""

from __future__ import annotations

import asyncio

import pytest

from ca.tracing import MAX_VALUE_CHARACTERS, Tracer, step, vouch
from shared.model.errors import ConflictError
from shared.model.formats.otlp_traces import Span, SpanKind
from tests.shared.model.formats.test_otlp_traces import SPAN, TRACE


def test_steps_are_children_of_what_is_open() -> None:
    spans: list[Span] = []
    with Tracer(spans.append).begin("root") as root:
        assert root is not None
        root.note(touchmark_workload="shop/web", long="x" * 9999)
        with step("outer"), step("inner"):
            pass
    with step("alone") as nothing:
        assert nothing is None
    inner, outer, first = spans
    assert [span.name for span in spans] == ["inner", "outer", "root"]
    assert (inner.parent_id, outer.parent_id, first.parent_id) == (outer.span_id, first.span_id, "")
    assert len({span.trace_id for span in spans}) == 1
    assert (first.kind, inner.kind) == (SpanKind.SERVER, SpanKind.INTERNAL)
    assert first.attributes["touchmark.workload"] == "shop/web"
    assert len(str(first.attributes["long"])) == MAX_VALUE_CHARACTERS
    assert first.begin_ns <= inner.begin_ns <= inner.end_ns <= first.end_ns


@pytest.mark.parametrize(("every", "traced"), [(1, 6), (3, 2), (0, 0)])
def test_one_of_so_many_is_traced(every: int, traced: int) -> None:
    spans: list[Span] = []
    tracer = Tracer(spans.append, every=every)
    for _ in range(6):
        with tracer.begin("root"), step("inner"):
            pass
    assert len(spans) == 2 * traced
    with tracer.begin("root", is_sampled=False):
        pass
    assert len(spans) == 2 * traced


@pytest.mark.parametrize(("flags", "traced"), [("01", 1), ("00", 0)])
def test_a_callers_word_on_tracing_is_followed(flags: str, traced: int) -> None:
    spans: list[Span] = []
    with Tracer(spans.append, every=0).begin("root", traceparent=f"00-{TRACE}-{SPAN}-{flags}", is_sampled=False):
        pass
    assert [(span.trace_id, span.parent_id) for span in spans] == [(TRACE, SPAN)] * traced


def test_a_traceparent_that_cannot_be_read_is_ignored() -> None:
    spans: list[Span] = []
    with Tracer(spans.append).begin("root", traceparent="evil"):
        pass
    assert [span.parent_id for span in spans] == [""]


@pytest.mark.parametrize(
    ("error", "code"),
    [(ConflictError("no"), "conflict"), (asyncio.CancelledError(), "cancelled"), (KeyError("secret"), "KeyError")],
)
def test_an_error_goes_on_and_only_its_code_is_said(error: BaseException, code: str) -> None:
    spans: list[Span] = []
    with pytest.raises(type(error)), Tracer(spans.append).begin("root"), step("inner"):
        raise error
    assert [span.fault for span in spans] == [code, code]


async def test_a_task_that_is_begun_in_a_span_is_in_its_trace() -> None:
    spans: list[Span] = []

    async def work() -> None:
        with step("inner"):
            await asyncio.sleep(0)

    with Tracer(spans.append).begin("root"):
        await asyncio.create_task(work())
    assert [span.name for span in spans] == ["inner", "root"]


def test_without_a_collector_nothing_is_traced() -> None:
    tracer = Tracer()
    with tracer.begin("root", traceparent=f"00-{TRACE}-{SPAN}-01") as root, step("inner") as inner:
        assert root is None and inner is None
    assert not tracer.is_on


def test_a_held_trace_counts_once_its_caller_is_vouched_for_and_never_else() -> None:
    spans: list[Span] = []
    tracer = Tracer(spans.append)
    with tracer.begin("stranger", traceparent=f"00-{TRACE}-{SPAN}-01", is_held=True), step("authenticate"):
        pass
    assert not spans
    with tracer.begin("user", is_held=True):
        with step("early"):
            pass
        with step("authenticate"):
            vouch()
        with step("act"):
            pass
    assert [span.name for span in spans] == ["early", "authenticate", "act", "user"]
    vouch()  # Where nothing is traced.
