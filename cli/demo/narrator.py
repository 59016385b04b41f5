"""The demo's output: headings, the commands that a user would type, and their results. Prints.

With ``--json`` standard output has the JSON object alone, and this goes to standard error.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import TextIO


class Narrator:
    """Prints the story, one line at a time."""

    def __init__(self, *, as_json: bool) -> None:
        self._stream: TextIO = sys.stderr if as_json else sys.stdout
        self._step = 0

    def step(self, text: str) -> None:
        """Begin a step."""
        self._step += 1
        self._print(f"\n{self._step}. {text}")

    def say(self, text: str) -> None:
        """Say one sentence."""
        self._print(f"   {text}")

    def typed(self, command: Sequence[str]) -> None:
        """Show what a user would type."""
        self._print(f"   $ {shlex.join(command)}")

    def show(self, text: str) -> None:
        """Show what a command printed."""
        for line in text.rstrip("\n").splitlines():
            self._print(f"     {line.rstrip()}")

    def conclude(self, *, holds: bool, text: str) -> None:
        """Return whether what was observed is what Touchmark claims."""
        self._print(f"   {'✓' if holds else '✗'} {text}")

    def _print(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()
