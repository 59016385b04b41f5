"""A namespace doesn't become explicit while that would refuse what was seen; the admin API's tests ask for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ca.observation.explicit_guard import MAX_WINDOW_S, check_window, require_unblocked
from shared.model.errors import BlockedError, InputError
from shared.model.policy.decision import Answer
from shared.model.policy.rules import Action, Mode, Rule
from shared.model.wire.admin import PolicyCandidateRequest
from tests.ca.founded import NOW, opened
from tests.ca.running import make_decision


async def test_what_was_seen_blocks_until_rules_allow_it_or_it_is_long_ago(tmp_path: Path) -> None:
    marked = make_decision("c1", time=NOW, answer=Answer.ALLOW, would_deny=True, mode=Mode.PERMISSIVE)
    async with opened(tmp_path / "d") as core:
        version = (await core.store.namespaces.set_mode("shop", Mode.PERMISSIVE)).version
        assert await require_unblocked(core.store, "shop", now=NOW) == version
        await core.store.decisions.insert([marked])
        with pytest.raises(BlockedError, match=r"shop is unchanged: .*shop/web → shop/db:5432") as caught:
            await require_unblocked(core.store, "shop", now=NOW + 1)
        assert "touchmark ready shop" in caught.value.hint
        refused = PolicyCandidateRequest(rules=(Rule(name="none", action=Action.DENY),))
        await require_unblocked(core.store, "shop", now=NOW + 1, candidate=refused)  # As intended: no mode changes it.
        await require_unblocked(core.store, "shop", now=NOW + 60, since_s=30)
        explicit = await core.store.namespaces.set_mode("shop", Mode.EXPLICIT)
        assert await require_unblocked(core.store, "shop", now=NOW + 1) == explicit.version, "it is explicit already"


@pytest.mark.parametrize("since_s", [0.0, -1.0, MAX_WINDOW_S + 1, float("nan")])
def test_a_window_has_bounds(since_s: float) -> None:
    with pytest.raises(InputError):
        check_window(since_s)
    assert check_window(None) is None
    assert check_window(60.0) == 60.0
