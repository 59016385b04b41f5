"""What is traced for debugging, by an environment variable alone: nothing that a configuration should keep.

Belongs here: reading the variable. Doesn't: tracing (``sidecar/tunnel/trace.py``). Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

from shared.model.errors import InputError

TRACE_VARIABLE = "TOUCHMARK_TRACE"
FRAMES = "frames"


def is_tracing_frames(environment: Mapping[str, str]) -> bool:
    """Whether tunnels write an event for each frame.

    Raises:
        InputError: the variable has a value that isn't known.
    """
    value = environment.get(TRACE_VARIABLE, "")
    if value not in ("", FRAMES):
        raise InputError(f"{TRACE_VARIABLE} can't be {value[:80]!r}", hint=f"the only value is {FRAMES!r}")
    return value == FRAMES
