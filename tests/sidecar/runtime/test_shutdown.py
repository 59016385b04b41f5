"""The first signal requests the end, the second hurries it, and giving up keeps its error."""

from __future__ import annotations

from shared.model.errors import RefusedError
from sidecar.runtime.shutdown import Shutdown


async def test_the_second_signal_hurries_what_the_first_has_begun() -> None:
    shutdown = Shutdown()
    shutdown.signal()
    assert (shutdown.requested.is_set(), shutdown.hurried.is_set()) == (True, False)
    shutdown.signal()
    assert shutdown.hurried.is_set()
    assert shutdown.error is None


async def test_giving_up_drains_too_and_a_signal_then_hurries() -> None:
    shutdown, error = Shutdown(), RefusedError("expired")
    shutdown.give_up(error)
    assert (shutdown.requested.is_set(), shutdown.hurried.is_set(), shutdown.error) == (True, False, error)
    shutdown.signal()
    assert shutdown.hurried.is_set()
