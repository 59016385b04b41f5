"""What tests of the data path share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sidecar.native.engine import Wanted, choose, load


@pytest.fixture(params=["native", "python"])
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run a test with each engine that moves bytes: ``@pytest.mark.usefixtures("engine")``."""
    wanted = Wanted(request.param)
    if wanted is Wanted.NATIVE and load() is None:
        pytest.skip("the native engine isn't built: it takes a C compiler and Python's headers")
    before = choose(wanted)
    yield wanted.value
    choose(before)
