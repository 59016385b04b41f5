"""What waits to be sent to one sidecar: bounded, and newest state only. No I/O, and nobody waits here.

State messages (a bundle, a namespace's state, a directory entry) replace the one of the same key that still waits: a
slow sidecar gets the newest state instead of a history, and the queue can't grow by it. Answers are kept as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

# More than a sidecar ever asks for at once; a peer that lets this much wait doesn't read.
MAX_MESSAGES = 4096
MAX_BYTES = 32 * 1024 * 1024


class OutboxFullError(Exception):
    """The sidecar doesn't read what it asked for: its stream has to end."""


class Outbox:
    """Encoded messages in the order in which they are sent.

    Arguments:
        max_messages, max_bytes: beyond either, ``put`` raises.

    Attributes:
        on_put: called after each message that was queued; None: nobody sends yet, or any more.
    """

    __slots__ = ("_bytes", "_max_bytes", "_max_messages", "_number", "_waiting", "on_put")

    def __init__(self, *, max_messages: int = MAX_MESSAGES, max_bytes: int = MAX_BYTES) -> None:
        self._waiting: dict[Hashable, bytes] = {}
        self._bytes = 0
        self._number = 0
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self.on_put: Callable[[], None] | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, data: bytes, *, key: Hashable = None) -> None:
        """Queue an encoded message; with a key, in place of the one of that key that still waits.

        Raises:
            OutboxFullError: a bound is reached.
        """
        if key is None:
            self._number += 1
            key = self._number
        replaced = self._waiting.get(key)
        size = self._bytes + len(data) - (len(replaced) if replaced is not None else 0)
        # One message always fits: a state larger than the bound must not end every stream that asks for it.
        if self._waiting and (size > self._max_bytes or (replaced is None and len(self) >= self._max_messages)):
            raise OutboxFullError
        self._waiting[key] = data
        self._bytes = size
        if self.on_put is not None:
            self.on_put()

    def take(self) -> bytes:
        """Remove the next message and return it.

        Raises:
            LookupError: nothing waits.
        """
        if not self._waiting:
            raise LookupError("nothing waits")
        key = next(iter(self._waiting))
        data = self._waiting.pop(key)
        self._bytes -= len(data)
        return data
