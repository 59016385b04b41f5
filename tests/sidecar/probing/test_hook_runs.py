"""A hook is performed once at a time and not again at once; hooks don't wait for each other."""

from __future__ import annotations

from shared.model.kubernetes.contract import ProbeTarget
from sidecar.probing.hook_runs import MIN_INTERVAL_S, HookRuns, is_hook

STOP = ProbeTarget(container="app", kind="pre-stop", handler="http", port=1)
OTHER = ProbeTarget(container="other", kind="pre-stop", handler="http", port=1)


def test_only_hooks_are_hooks() -> None:
    assert is_hook(STOP)
    assert not is_hook(ProbeTarget(container="app", kind="liveness", handler="http", port=1))


def test_one_run_at_a_time_and_the_next_one_after_a_while() -> None:
    runs = HookRuns()
    assert runs.begin(STOP, 0.0)
    assert not runs.begin(STOP, 1000.0), "it still runs"
    assert runs.begin(OTHER, 0.0)
    runs.end(STOP, 1000.0)
    assert not runs.begin(STOP, 1000.0 + MIN_INTERVAL_S / 2)
    assert runs.begin(STOP, 1000.0 + MIN_INTERVAL_S)
