"""What other policies change is what the evaluator says of each connection, counted once."""

from __future__ import annotations

from collections import Counter

import msgspec

from shared.model.adoption.difference import Outcome, compare
from shared.model.adoption.seen import Seen
from shared.model.policy.decision import Answer, PartyRecord
from shared.model.policy.evaluate import compile_namespace
from shared.model.policy.reasons import Reason
from shared.model.policy.replay import judge
from shared.model.policy.rules import Action, Mode, NamespaceState, Rule
from tests.shared.model.adoption.worlds import NAMESPACES, attempt_of, draw_world

WORLDS = 100


def decide(seen: list[Seen], states: dict[str, NamespaceState]) -> dict[str, Outcome]:
    """Decide each connection alone: the stricter side holds."""
    policies = {name: compile_namespace(state) for name, state in states.items()}
    found: dict[str, Outcome] = {}
    for each in seen:
        verdict = judge(attempt_of(each), policies)
        outcome = Outcome.DENY if not verdict.allowed else Outcome.WOULD_DENY if verdict.would_deny else Outcome.ALLOW
        found[each.connection] = max(found.get(each.connection, Outcome.ALLOW), outcome)
    return found


def test_each_connection_is_counted_where_the_evaluator_puts_it() -> None:
    stricter = 0
    for seed in range(WORLDS):
        world, states = draw_world(seed), draw_world(seed + 10_000).states
        before, after = decide(world.seen, world.states), decide(world.seen, states)
        wanted = Counter((after[each] > before[each]) - (after[each] < before[each]) for each in before)
        found = compare(world.seen, world.states, states)
        counts = (
            sum(each.count for each in found.denied), found.unchanged, sum(each.count for each in found.allowed),
        )  # fmt: skip
        assert counts == (wanted[1], wanted[0], wanted[-1]), f"world {seed}"
        assert found.unknown == 0
        same = compare(world.seen, world.states, world.states)
        assert (same.denied, same.allowed) == ((), ())
        stricter += wanted[1]
    assert stricter > WORLDS // 4


def test_a_change_of_mode_alone_is_a_change() -> None:
    world = next(world for world in map(draw_world, range(99)) if any(each.would_deny for each in world.seen))
    permissive = {name: msgspec.structs.replace(world.states[name], mode=Mode.PERMISSIVE) for name in NAMESPACES}
    explicit = {name: msgspec.structs.replace(state, mode=Mode.EXPLICIT) for name, state in permissive.items()}
    found = compare(world.seen, permissive, explicit)
    assert {(each.before.words, each.after.words) for each in found.denied} == {("would deny", "deny")}
    assert compare(world.seen, explicit, permissive).allowed


def test_what_failed_or_cannot_be_read_is_unknown() -> None:
    world = next(world for world in map(draw_world, range(99)) if world.seen)
    first = world.seen[0]
    failed = msgspec.structs.replace(first, answer=Answer.DENY, reason=Reason.APPLICATION_UNREACHABLE)
    odd = msgspec.structs.replace(first, source=PartyRecord(workload="no workload"))
    deny = {
        name: msgspec.structs.replace(state, rules=(Rule(name="no", action=Action.DENY),))
        for name, state in world.states.items()
    }
    found = compare([failed, odd], world.states, deny)
    assert (found.denied, found.unchanged, found.unknown) == ((), 0, 2)
