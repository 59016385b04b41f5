"""Events are JSON lines with constant names."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from shared.runtime.sinks import LineSink
from sidecar.events import Events

ROOT = Path(__file__).parents[2]


def test_every_event_is_documented_and_no_other() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "sidecar").rglob("*.py"))
    emitted = set(re.findall(r"\bemit\(\s*\"([a-z_]+)\"", sources))
    table = (ROOT / "docs/reference/sidecar.md").read_text(encoding="utf-8").partition("| Event |")[2]
    documented = set(re.findall(r"`([a-z_]+)`", "".join(re.findall(r"(?m)^\|([^|]*)\|", table))))
    assert "sidecar_ready" in emitted
    assert documented == emitted


def test_an_event_is_one_line_with_its_fields() -> None:
    reading, writing = os.pipe()
    sink = LineSink(writing)
    Events(sink).emit("something", number=1, text="a\nb")
    Events(sink).fail("task", ValueError("x"))
    sink.close(timeout_s=30)
    os.close(writing)
    with os.fdopen(reading) as file:
        first, second = map(json.loads, file)
    assert (first["event"], first["number"], first["text"]) == ("something", 1, "a\nb")
    assert (second["event"], second["task"], second["error"]) == ("task_failed", "task", "ValueError")


def test_a_level_leaves_out_what_is_below_it() -> None:
    def written(level: str) -> list[str]:
        reading, writing = os.pipe()
        sink = LineSink(writing)
        events = Events(sink, level)
        for name in ("sidecar_ready", "ca_stream_lost", "task_failed", "tunnel_frame"):
            events.emit(name)
        sink.close(timeout_s=30)
        os.close(writing)
        with os.fdopen(reading) as file:
            return [json.loads(line)["event"] for line in file]

    assert (
        written("debug")
        == written("info")
        == [
            "sidecar_ready",
            "ca_stream_lost",
            "task_failed",
            "tunnel_frame",
        ]
    )
    assert written("warning") == ["ca_stream_lost", "task_failed", "tunnel_frame"]
    assert written("error") == ["task_failed", "tunnel_frame"]  # A trace was asked for by itself.
