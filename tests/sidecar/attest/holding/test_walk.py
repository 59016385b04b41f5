"""The walk over live processes, one at a time."""

from __future__ import annotations

import os
from contextlib import ExitStack

from sidecar.attest.holding.walk import Walk
from tests.sidecar.attest.processes import WAIT, running


def test_all_processes_come_in_the_order_of_their_numbers_and_later_only_those_above() -> None:
    with ExitStack() as stack:
        first, second = (stack.enter_context(running("import sys\n" + WAIT)).pid for _ in range(2))
        walk = Walk(first)
        stack.callback(walk.close)
        found = list(walk)
        assert found == sorted(found)
        assert {os.getpid(), first, second} <= set(found)
        again = list(walk)
        assert second in again
        assert os.getpid() not in again
        walk.begin_anew()
        assert os.getpid() in list(walk)


def test_one_that_comes_while_the_walk_goes_on_is_met() -> None:
    with ExitStack() as stack:
        walk = Walk(0)
        stack.callback(walk.close)
        steps = iter(walk)
        next(steps)
        child = stack.enter_context(running("import sys\n" + WAIT)).pid
        assert child in list(steps)
