"""The walk over live processes, one at a time."""

from __future__ import annotations

import os
from contextlib import ExitStack

from sidecar.attest.holding.walk import Walk
from tests.sidecar.attest.processes import WAIT, running


def test_processes_come_in_the_order_of_their_numbers_from_a_given_one_or_all() -> None:
    with ExitStack() as stack:
        first, second = sorted(stack.enter_context(running("import sys\n" + WAIT)).pid for _ in range(2))
        walk = Walk(first)
        stack.callback(walk.close)
        for _ in range(2):
            found = list(walk)
            assert found == sorted(found)
            assert second in found
            assert first not in found
        walk.begin_anew()
        assert {os.getpid(), first, second} <= set(walk)


def test_one_that_comes_while_the_walk_goes_on_is_met() -> None:
    with ExitStack() as stack:
        walk = Walk(0)
        stack.callback(walk.close)
        steps = iter(walk)
        next(steps)
        child = stack.enter_context(running("import sys\n" + WAIT)).pid
        assert child in list(steps)
