"""What differs between two generations is said by name, also where only the order of rules does."""

from __future__ import annotations

import msgspec

from ca.observation.namespace_changes import describe_changes
from ca.store.history.generations import Content
from shared.model.policy.rules import Action, Requirement, Rule


def make_content(*rules: Rule, mode: str = "permissive", requires: tuple[Requirement, ...] = ()) -> Content:
    return Content(
        mode=mode,
        has_policy=True,
        group_label="",
        rules=msgspec.Raw(msgspec.json.encode(rules)),
        requires=msgspec.Raw(msgspec.json.encode(requires)),
    )


def test_each_kind_of_change_has_its_words() -> None:
    one, other = Rule(name="one", action=Action.ALLOW), Rule(name="other", action=Action.DENY)
    denied = msgspec.structs.replace(one, action=Action.DENY)
    assert describe_changes(make_content(one, other), make_content(one, other)) == ()
    assert describe_changes(make_content(one, other), make_content(other, one)) == ("rules in another order",)
    assert describe_changes(make_content(one), make_content(denied, other)) == ("+ rule other", "~ rule one")
    required = make_content(mode="explicit", requires=(Requirement.OWN_SOCKETS,))
    assert describe_changes(make_content(), required) == ("mode permissive → explicit", "requires ownSockets")
    assert describe_changes(required, make_content(mode="explicit")) == ("requires nothing",)
