"""Events are JSON lines with constant names."""

from __future__ import annotations

import json
import os

from shared.runtime.sinks import LineSink
from sidecar.events import Events


def test_an_event_is_one_line_with_its_fields() -> None:
    reading, writing = os.pipe()
    sink = LineSink(writing)
    Events(sink).emit("something", number=1, text="a\nb")
    Events(sink).fail("task", ValueError("x"))
    sink.close(timeout_s=2)
    os.close(writing)
    with os.fdopen(reading) as file:
        first, second = map(json.loads, file)
    assert (first["event"], first["number"], first["text"]) == ("something", 1, "a\nb")
    assert (second["event"], second["task"], second["error"]) == ("task_failed", "task", "ValueError")
