"""A workload's own mode counts in the place of its namespace's, for its side of connections."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from shared.model.errors import IdentityError, InputError
from shared.model.identity.identity import Workload
from shared.model.policy.evaluate import Party, Verdict, compile_namespace, evaluate
from shared.model.policy.modes import (
    as_explicit,
    change_modes,
    effective_mode,
    find_newly_explicit,
    make_modes,
    read_modes,
    strictest_mode,
)
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import MAX_WORKLOAD_MODES, Direction, Mode, NamespaceState, WorkloadMode

WEB, DB, ALIEN = (
    Workload(namespace=namespace, service_account=name)
    for namespace, name in (("shop", "web"), ("shop", "db"), ("bank", "db"))
)


def make_state(mode: Mode, **modes: Mode) -> NamespaceState:
    return NamespaceState(namespace="shop", version=1, mode=mode, workload_modes=make_modes(modes))


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("own", list(Mode))
def test_the_own_mode_counts_and_the_namespaces_for_all_others(mode: Mode, own: Mode) -> None:
    state = make_state(mode, db=own)
    assert (effective_mode(state, DB), effective_mode(state, WEB)) == (own, mode)


@pytest.mark.parametrize("unknown", [None, ALIEN])
def test_of_a_workload_that_is_not_known_the_strictest_mode_counts(unknown: Workload | None) -> None:
    assert effective_mode(make_state(Mode.PERMISSIVE), unknown) is Mode.PERMISSIVE
    assert effective_mode(make_state(Mode.PERMISSIVE, db=Mode.EXPLICIT), unknown) is Mode.EXPLICIT
    assert effective_mode(make_state(Mode.EXPLICIT, db=Mode.PERMISSIVE), unknown) is Mode.EXPLICIT
    assert strictest_mode(make_state(Mode.PERMISSIVE, db=Mode.PERMISSIVE)) is Mode.PERMISSIVE


def test_as_explicit_leaves_nobody_out() -> None:
    state = as_explicit(make_state(Mode.PERMISSIVE, db=Mode.PERMISSIVE))
    assert {effective_mode(state, each) for each in (WEB, DB, None)} == {Mode.EXPLICIT}


def test_modes_are_changed_in_one_order_and_taken_away() -> None:
    modes = change_modes((), ["web", "db"], Mode.EXPLICIT)
    assert [each.service_account for each in modes] == ["db", "web"]
    assert read_modes(change_modes(modes, ["web", "job"], None)) == {"db": Mode.EXPLICIT}
    assert read_modes(change_modes(modes, ["db"], Mode.PERMISSIVE)) == {"db": Mode.PERMISSIVE, "web": Mode.EXPLICIT}


def test_a_state_holds_one_mode_a_workload_and_not_too_many() -> None:
    twice = (
        WorkloadMode(service_account="db", mode=Mode.EXPLICIT),
        WorkloadMode(service_account="db", mode=Mode.EXPLICIT),
    )
    with pytest.raises(InputError, match="two modes"):
        NamespaceState(namespace="shop", workload_modes=twice)
    many = make_modes({f"w{number}": Mode.EXPLICIT for number in range(MAX_WORKLOAD_MODES + 1)})
    with pytest.raises(InputError, match="at most"):
        NamespaceState(namespace="shop", workload_modes=many)
    with pytest.raises(IdentityError):
        WorkloadMode(service_account="No Name", mode=Mode.EXPLICIT)


def test_newly_explicit_are_exactly_those_whose_effective_mode_becomes_so() -> None:
    choices = (None, *Mode)
    for mode, now, web, web_now, db, db_now in itertools.product(Mode, Mode, choices, choices, choices, choices):
        before = make_state(mode, **{name: own for name, own in (("web", web), ("db", db)) if own is not None})
        wanted = make_modes({name: own for name, own in (("web", web_now), ("db", db_now)) if own is not None})
        found = find_newly_explicit(before, now, wanted)
        after = msgspec.structs.replace(before, mode=now, workload_modes=wanted)
        inheriting = {name for name, own in (("web", web_now), ("db", db_now)) if own is None}
        for workload in (WEB, DB):
            becomes = effective_mode(after, workload) is Mode.EXPLICIT is not effective_mode(before, workload)
            is_covered = workload.service_account in found or ("" in found and workload.service_account in inheriting)
            assert not becomes or is_covered
            if workload.service_account in found:
                assert becomes
        assert ("" in found) == (now is Mode.EXPLICIT is not mode)


def decide(direction: Direction, state: NamespaceState, *, destination: Party) -> Verdict:
    policy = compile_namespace(state)
    return evaluate(
        direction=direction, source=Party(workload=WEB, listed=WEB), destination=destination, port=5432,
        source_policy=policy, destination_policy=policy,
    )  # fmt: skip


def test_each_side_decides_by_its_own_workloads_mode() -> None:
    state = make_state(Mode.PERMISSIVE, db=Mode.EXPLICIT)
    egress, ingress = (
        decide(side, state, destination=Party(workload=DB, listed=DB)) for side in (Direction.EGRESS, Direction.INGRESS)
    )
    assert (egress.allowed, egress.would_deny, egress.mode) == (True, True, Mode.PERMISSIVE)
    assert (ingress.allowed, ingress.mode) == (False, Mode.EXPLICIT)


def test_plaintext_to_an_explicit_workload_is_refused_by_the_permissive_one_that_dials_it() -> None:
    state = make_state(Mode.PERMISSIVE, db=Mode.EXPLICIT)
    bare = Party(listed=DB, why_unidentified=Reason.MTLS_UNAVAILABLE)
    assert not decide(Direction.EGRESS, state, destination=bare).allowed
    assert decide(Direction.EGRESS, make_state(Mode.PERMISSIVE), destination=bare).allowed
