"""What the CA did in one issuance or one admin act, and how long each step took: spans. No I/O: what ends is offered.

Belongs here: what is traced, and by whose wish. Doesn't: how spans are sent (``ca/forwarding``) or written
(``shared/model/formats/otlp_traces.py``).

The open span is a context variable, as who acts is (``ca/store/audit/acting.py``): steps far below name themselves by
``step``, which costs next to nothing where nothing is traced. A trace tells who asked for what, and holds no secrets.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Final

from shared.model.errors import TouchmarkError
from shared.model.formats.otlp_traces import Parent, Span, SpanKind, read_traceparent

Value = str | int | float | bool
MAX_VALUE_CHARACTERS: Final = 512
_MAX_HELD: Final = 8


class OpenSpan:
    """A span that hasn't ended."""

    def __init__(self, offer: Callable[[Span], None], *, trace_id: str) -> None:
        self.trace_id = trace_id
        self.span_id = secrets.token_hex(8)
        self.offer = offer
        self.attributes: dict[str, Value] = {}
        self.faults: list[str] = []

    def note(self, **attributes: Value) -> None:
        """Add attributes; ``_`` in a name stands for ``.``."""
        for name, value in attributes.items():
            text = value[:MAX_VALUE_CHARACTERS] if isinstance(value, str) else value
            self.attributes[name.replace("_", ".")] = text

    def fail(self, code: str) -> None:
        """Say that it went wrong, by an error's code."""
        self.faults.append(code)


class _Held:
    """Keeps a trace's spans back until its caller is known: a stranger's never count."""

    def __init__(self, offer: Callable[[Span], None]) -> None:
        self._offer = offer
        self._spans: list[Span] = []
        self._is_vouched = False

    def __call__(self, span: Span) -> None:
        if self._is_vouched:
            self._offer(span)
        elif len(self._spans) < _MAX_HELD:
            self._spans.append(span)

    def vouch(self) -> None:
        self._is_vouched = True
        for span in self._spans:
            self._offer(span)
        self._spans.clear()


_open: Final[ContextVar[OpenSpan | None]] = ContextVar("touchmark_span", default=None)
_NOTHING: Final = contextlib.nullcontext(None)


class Tracer:
    """Begins traces.

    Arguments:
        offer: takes each span that ends; None: nothing is traced.
        every: one of so many is traced whose caller says nothing; 0: none.
    """

    def __init__(self, offer: Callable[[Span], None] | None = None, *, every: int = 1) -> None:
        self._offer = offer
        self._every = every
        self._seen = 0

    @property
    def is_on(self) -> bool:
        """Whether anything may be traced."""
        return self._offer is not None

    def begin(
        self,
        name: str,
        *,
        kind: SpanKind = SpanKind.SERVER,
        traceparent: str = "",
        is_sampled: bool = True,
        is_held: bool = False,
    ) -> contextlib.AbstractContextManager[OpenSpan | None]:
        """Return the context of a trace's first span here; it gives None where this one isn't traced.

        Arguments:
            traceparent: the caller's, as W3C has it: whether it traces is its word. What can't be read is ignored.
            is_sampled: may be traced also where the caller says nothing.
            is_held: nothing of it is sent unless ``vouch`` is called: who asks isn't known yet.
        """
        if self._offer is None:
            return _NOTHING
        offer = _Held(self._offer) if is_held else self._offer
        parent = read_traceparent(traceparent) if traceparent else None
        if parent is not None:
            return _span(offer, name, kind, parent) if parent.is_sampled else _NOTHING
        if not is_sampled or not self._every:
            return _NOTHING
        self._seen += 1
        return _NOTHING if self._seen % self._every else _span(offer, name, kind, None)


def vouch() -> None:
    """Say that the caller of what is being traced in this task is authenticated, so that its trace counts."""
    outer = _open.get()
    if outer is not None and isinstance(outer.offer, _Held):
        outer.offer.vouch()


def step(name: str) -> contextlib.AbstractContextManager[OpenSpan | None]:
    """Return the context of a step of what is being traced in this task; it gives None where nothing is."""
    outer = _open.get()
    if outer is None:
        return _NOTHING
    parent = Parent(trace_id=outer.trace_id, span_id=outer.span_id, is_sampled=True)
    return _span(outer.offer, name, SpanKind.INTERNAL, parent)


@contextlib.contextmanager
def _span(offer: Callable[[Span], None], name: str, kind: SpanKind, parent: Parent | None) -> Iterator[OpenSpan]:
    made = OpenSpan(offer, trace_id=parent.trace_id if parent is not None else secrets.token_hex(16))
    begin_ns, begin = time.time_ns(), time.perf_counter_ns()
    token = _open.set(made)
    try:
        yield made
    except TouchmarkError as error:
        made.fail(error.code)
        raise
    except asyncio.CancelledError:
        made.fail("cancelled")
        raise
    except BaseException as error:
        made.fail(type(error).__name__)
        raise
    finally:
        _open.reset(token)
        span = Span(
            trace_id=made.trace_id,
            span_id=made.span_id,
            parent_id=parent.span_id if parent is not None else "",
            name=name,
            kind=kind,
            begin_ns=begin_ns,
            # By the clock that isn't set back.
            end_ns=begin_ns + time.perf_counter_ns() - begin,
            attributes=made.attributes,
            fault=made.faults[-1] if made.faults else "",
        )
        offer(span)
