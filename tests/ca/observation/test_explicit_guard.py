"""A namespace doesn't become explicit while that would refuse what was seen; the admin API's tests ask for it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from ca.observation.explicit_guard import MAX_WINDOW_S, check_window, judge_policy, require_unblocked
from ca.observation.explicit_readiness import assess
from shared.model.errors import BlockedError, InputError
from shared.model.policy.decision import Answer
from shared.model.policy.documents import MeshPolicyDocument, ModeTrial
from shared.model.policy.modes import make_modes
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


async def test_each_workload_is_judged_when_it_becomes_explicit_and_by_what_its_own_side_saw(tmp_path: Path) -> None:
    """The connection goes from shop/web to shop/db; the record is the server's."""
    marked = make_decision("c1", time=NOW, answer=Answer.ALLOW, would_deny=True, mode=Mode.PERMISSIVE)
    db, web = make_modes({"db": Mode.EXPLICIT}), make_modes({"web": Mode.EXPLICIT})
    loose = make_modes({"db": Mode.PERMISSIVE})
    async with opened(tmp_path / "d") as core:
        store = core.store
        await store.decisions.insert([marked])
        for modes in (db, (*db, *web)):
            with pytest.raises(BlockedError, match="shop/db") as caught:
                await require_unblocked(store, "shop", now=NOW + 1, mode=None, workload_modes=modes)
            assert "`touchmark ready shop --workload db`" in caught.value.hint
        await require_unblocked(store, "shop", now=NOW + 1, mode=None, workload_modes=web)
        # With a mode of its own it isn't changed by its namespace's.
        await require_unblocked(store, "shop", now=NOW + 1, mode=Mode.EXPLICIT, workload_modes=loose)
        await store.namespaces.set_workload_modes("shop", ["db"], Mode.PERMISSIVE)
        await require_unblocked(store, "shop", now=NOW + 1)
        explicit = await store.namespaces.set_mode("shop", Mode.EXPLICIT)
        with pytest.raises(BlockedError, match="shop/db"):
            await require_unblocked(store, "shop", now=NOW + 1, mode=None, workload_modes=())  # It would inherit.
        refused = PolicyCandidateRequest(rules=(Rule(name="none", action=Action.DENY),))
        version = await require_unblocked(store, "shop", now=NOW + 1, mode=None, workload_modes=(), candidate=refused)
        assert version == explicit.version


async def test_a_readiness_says_who_was_left_out_and_of_a_workload_its_own_mode(tmp_path: Path) -> None:
    marked = make_decision("c1", time=NOW, answer=Answer.ALLOW, would_deny=True, mode=Mode.PERMISSIVE)
    async with opened(tmp_path / "d") as core:
        store = core.store
        await store.decisions.insert([marked])
        state = await store.namespaces.set_workload_modes("shop", ["db"], Mode.EXPLICIT)
        others = await assess(store, "shop", since=0, now=NOW + 1)
        assert (others.causes, others.mode, others.workload_modes) == ((), Mode.PERMISSIVE, state.workload_modes)
        found = await assess(store, "shop", since=0, now=NOW + 1, workload="shop/db")
        assert (len(found.causes) > 0, found.mode) == (True, Mode.EXPLICIT)


async def test_of_a_mode_whose_trial_is_over_what_is_in_force_is_judged_and_workloads_own_modes_are(
    tmp_path: Path,
) -> None:
    """An object keeps its trial when it is over."""
    marked = make_decision("c1", time=NOW, answer=Answer.ALLOW, would_deny=True, mode=Mode.PERMISSIVE)
    trial = ModeTrial(back_to=Mode.PERMISSIVE, until=NOW)
    document = MeshPolicyDocument(namespace="shop", mode=Mode.EXPLICIT, trial=trial)
    async with opened(tmp_path / "d") as core:
        await core.store.decisions.insert([marked])
        await judge_policy(core.store, document, now=NOW + 1)
        db = msgspec.structs.replace(document, workload_modes=make_modes({"db": Mode.EXPLICIT}))
        with pytest.raises(BlockedError, match="shop/db") as caught:
            await judge_policy(core.store, db, now=NOW + 1)
        assert "`touchmark ready shop --workload db -k`" in caught.value.hint, "objects are in a cluster"
