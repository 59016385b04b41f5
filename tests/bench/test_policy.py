"""The policy bench decides and installs."""

from __future__ import annotations

from bench.policy import make_state, time_decisions, time_install
from shared.model.policy.evaluate import compile_namespace


async def test_it_measures_decisions_and_an_install() -> None:
    state = make_state(20)
    assert all(each > 0 for each in time_decisions(compile_namespace(state)).values())
    figures = await time_install(state)
    assert figures["install_s"] >= 0
