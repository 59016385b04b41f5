"""What tests of the data path share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sidecar.native.engine import Wanted, choose, choose_workers, load
from sidecar.tunnel import native_tunnel


@pytest.fixture(params=["native", "python"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Run a test with each engine that moves bytes: ``@pytest.mark.usefixtures("engine")``.

    The native one lends a turn to its thread as soon as it may.
    """
    monkeypatch.setattr(native_tunnel, "STEADY_CALLS", 1)
    wanted = Wanted(request.param)
    if wanted is Wanted.NATIVE and load() is None:
        pytest.skip("the native engine isn't built: it takes a C compiler and Python's headers")
    before = choose(wanted)
    yield wanted.value
    choose(before)


@pytest.fixture(name="workers", params=[1, 2], ids=["one thread", "two threads"])
def number_of_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Run a test with one thread for established turns, and with two, which then have an end of a turn each."""
    before = choose_workers(request.param)
    yield request.param
    choose_workers(before)
