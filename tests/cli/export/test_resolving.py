"""Names are unique and DNS labels; a missing pod is a loss on the side that it is on."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from cli.export.plan import Effect, End, Flow
from cli.export.resolving import chunk, expand_ports, name_flow, name_object
from shared.model.policy.rules import Direction, PortRange
from tests.cli.export.world import make_resolver


@given(st.lists(st.text(max_size=80), min_size=1, max_size=3), st.lists(st.text(max_size=80), min_size=1, max_size=3))
def test_a_name_is_a_dns_label_of_its_input_alone(one: list[str], other: list[str]) -> None:
    name = name_object("touchmark", *one)
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name)
    assert (name == name_object("touchmark", *other)) == (one == other)


def test_a_workload_without_pods_loosens_what_refuses_and_tightens_what_allows() -> None:
    for denies, effect in ((True, Effect.LOOSER), (False, Effect.STRICTER)):
        resolver = make_resolver()
        flow = Flow(rule="shop/x", direction=Direction.INGRESS, denies=denies, own=("ghost",), ends=(End(),))
        assert resolver.find_own(flow) == []
        [loss] = resolver.losses
        assert (loss.effect, "shop/ghost" in loss.message) == (effect, True)


def test_rules_of_equal_spelling_in_two_namespaces_have_two_names() -> None:
    names = {name_flow(Flow(rule=each, direction=Direction.EGRESS, ends=())) for each in ("a/b-c", "a-b/c")}
    assert len(names) == 2


def test_ports_are_expanded_up_to_a_limit() -> None:
    ports = [PortRange(first=1, last=3), PortRange(first=3, last=4)]
    assert expand_ports(ports, 5) == [1, 2, 3, 4]
    assert expand_ports(ports, 4) is None
    assert chunk([1, 2, 3], 2) == [[1, 2], [3]]
