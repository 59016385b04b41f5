"""That the sidecar is to stop, and why. Pure state: no I/O, no clock."""

from __future__ import annotations

import asyncio

from shared.model.errors import TouchmarkError


class Shutdown:
    """Requested by the first signal, hurried by the second.

    Attributes:
        requested: the sidecar drains and ends.
        hurried: it doesn't wait for live connections.
        error: why it gave up; None when it was asked to stop.
    """

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        self.hurried = asyncio.Event()
        self.error: TouchmarkError | None = None

    def signal(self) -> None:
        """Take a signal: the first one drains, any further one ends the draining."""
        (self.hurried if self.requested.is_set() else self.requested).set()

    def give_up(self, error: TouchmarkError) -> None:
        """Stop because of an error that nothing in this process heals."""
        self.error = error
        self.requested.set()
