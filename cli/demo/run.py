"""Running the demo: chooses the stage, tells the story, ends everything."""

from __future__ import annotations


def run_demo(*, capture: str, keep: bool, as_json: bool) -> int:
    """Run the demo and return its exit code."""
    raise NotImplementedError(capture, keep, as_json)
