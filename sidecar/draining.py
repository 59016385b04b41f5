"""Whether this sidecar is ending, and who wants to know. Pure state: no I/O, no clock.

Belongs here: the flag and its watchers. Doesn't: the order of the steps at the end (``runtime/``), what a watcher
does: an idle tunnel says CLOSING, so that its peer takes another way before this one breaks.
"""

from __future__ import annotations

from collections.abc import Callable


class Draining:
    """Begins once and never ends.

    Attributes:
        has_begun: no further work is taken on.
    """

    def __init__(self) -> None:
        self.has_begun = False
        self._watchers: set[Callable[[], None]] = set()

    def __len__(self) -> int:
        return len(self._watchers)

    def begin(self) -> None:
        """Tell every watcher, once."""
        self.has_begun = True
        watchers, self._watchers = self._watchers, set()
        for watcher in watchers:
            watcher()

    def watch(self, watcher: Callable[[], None]) -> None:
        """Have ``watcher`` called when the draining begins; at once when it has begun."""
        if self.has_begun:
            watcher()
        else:
            self._watchers.add(watcher)

    def forget(self, watcher: Callable[[], None]) -> None:
        """Call ``watcher`` no more."""
        self._watchers.discard(watcher)
