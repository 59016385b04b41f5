"""Prometheus' text format, version 0.0.4, written by hand. Pure.

The official client library, which the CA uses, would cost each sidecar 2.3 of its 44 MiB, mostly for an HTTP server.
A test reads what is written here with that library's parser.
Source: prometheus.io/docs/instrumenting/exposition_formats.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final

from sidecar.figures.counts import Histogram

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_ESCAPES: Final = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})

Labels = Mapping[str, str]
Sample = tuple[Labels, float]


class Page:
    """Collects metrics, each with its one HELP and TYPE line."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add_counter(self, name: str, text: str, samples: Iterable[Sample] | float) -> None:
        """Add a counter; ``name`` ends with ``_total``, as all of them do."""
        self._add("counter", name, text, samples)

    def add_gauge(self, name: str, text: str, samples: Iterable[Sample] | float) -> None:
        """Add a gauge."""
        self._add("gauge", name, text, samples)

    def add_histogram(self, name: str, text: str, histogram: Histogram) -> None:
        """Add a histogram; ``name`` ends with its unit."""
        self._head("histogram", name, text)
        count = 0
        for bound, found in zip((*histogram.bounds, math.inf), histogram.counts, strict=True):
            count += found
            self._lines.append(_write_sample(f"{name}_bucket", {"le": _write_number(bound)}, count))
        self._lines.append(_write_sample(f"{name}_sum", {}, histogram.total))
        self._lines.append(_write_sample(f"{name}_count", {}, count))

    def render(self) -> bytes:
        """Return the page."""
        return "".join(f"{line}\n" for line in self._lines).encode()

    def _add(self, kind: str, name: str, text: str, samples: Iterable[Sample] | float) -> None:
        self._head(kind, name, text)
        each = [({}, samples)] if isinstance(samples, int | float) else samples
        self._lines += [_write_sample(name, labels, value) for labels, value in each]

    def _head(self, kind: str, name: str, text: str) -> None:
        self._lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _write_sample(name: str, labels: Labels, value: float) -> str:
    written = ",".join(f'{key}="{text.translate(_ESCAPES)}"' for key, text in labels.items())
    return f"{name}{{{written}}} {_write_number(value)}" if written else f"{name} {_write_number(value)}"


def _write_number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(value) if isinstance(value, int) else f"{value:.10g}"
