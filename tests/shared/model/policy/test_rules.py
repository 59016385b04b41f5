"""Policy's values: what means nothing can't be built."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from shared.model.errors import InputError, TouchmarkError
from shared.model.identity.program import Program
from shared.model.policy.host_name import MAX_HOSTS
from shared.model.policy.rules import (
    MAX_RULES,
    Action,
    Approval,
    Direction,
    Mode,
    NamespaceState,
    Peer,
    PolicyDraft,
    PortRange,
    Requirement,
    Rule,
    check_rules,
    put_draft_in_force,
)

A = Program(digest="a" * 64)

MEANINGLESS: dict[str, Callable[[], object]] = {
    "port 0": lambda: PortRange(first=0, last=1),
    "port 65536": lambda: PortRange(first=1, last=65536),
    "an empty range": lambda: PortRange(first=2, last=1),
    "unidentified with a namespace": lambda: Peer(unidentified=True, cidrs=("::/0",), namespace="shop"),
    "unidentified without addresses": lambda: Peer(unidentified=True),
    "addresses of an identified peer": lambda: Peer(namespace="shop", cidrs=("198.18.0.0/15",)),
    "addresses alone": lambda: Peer(cidrs=("198.18.0.0/15",)),
    "a program alone": lambda: Peer(program=A),
    "a program of a namespace": lambda: Peer(namespace="shop", program=A),
    "a service account alone": lambda: Peer(service_account="web"),
    "a bad namespace": lambda: Peer(namespace="No"),
    "not a CIDR": lambda: Peer(unidentified=True, cidrs=("everything",)),
    "a CIDR with host bits": lambda: Peer(unidentified=True, cidrs=("198.18.0.1/15",)),
    "a v4-mapped CIDR": lambda: Peer(unidentified=True, cidrs=("::ffff:198.18.0.0/112",)),
    "a rule without a name": lambda: Rule(name="", action=Action.ALLOW),
    "a rule with a long name": lambda: Rule(name="n" * 129, action=Action.ALLOW),
    "a rule for a program without a workload": lambda: Rule(name="r", action=Action.ALLOW, programs=(A,)),
    "a bad namespace's state": lambda: NamespaceState(namespace=""),
    "a draft of too many rules": lambda: PolicyDraft(
        number=1, rules=(Rule(name="r", action=Action.ALLOW),) * (MAX_RULES + 1)
    ),
    "too many rules": lambda: NamespaceState(
        namespace="shop", rules=(Rule(name="r", action=Action.ALLOW),) * (MAX_RULES + 1)
    ),
}


@pytest.mark.parametrize("build", MEANINGLESS.values(), ids=MEANINGLESS.keys())
def test_what_means_nothing_cant_be_built(build: Callable[[], object]) -> None:
    with pytest.raises(TouchmarkError) as caught:
        build()
    assert caught.value.message


def test_ports_are_shown_as_they_are_written() -> None:
    assert str(PortRange(first=80, last=80)) == "80"
    assert str(PortRange(first=80, last=90)) == "80-90"


def test_everything_is_said_in_so_many_words() -> None:
    assert Peer(unidentified=True, cidrs=("0.0.0.0/0", "::/0")).cidrs == ("0.0.0.0/0", "::/0")
    assert Peer() == Peer(namespace="", service_account="", program=None)


def test_a_draft_in_force_takes_the_place_of_the_policy_and_leaves_the_rest() -> None:
    approvals = (Approval(service_account="web", program=A),)
    rule = Rule(name="r", action=Action.DENY)
    state = NamespaceState(namespace="shop", version=3, mode=Mode.EXPLICIT, rules=(rule,), approvals=approvals)
    draft = PolicyDraft(number=1, group_label="team", requires=(Requirement.OWN_SOCKETS,))
    told = put_draft_in_force(msgspec.structs.replace(state, draft=draft), draft)
    assert told == msgspec.structs.replace(state, rules=(), group_label="team", requires=(Requirement.OWN_SOCKETS,))
    permissive = msgspec.structs.replace(draft, mode=Mode.PERMISSIVE)
    assert put_draft_in_force(state, permissive).mode is Mode.PERMISSIVE


def test_rules_of_one_name_and_our_own_workloads_as_foreign_peers_are_no_policy() -> None:
    rule = Rule(name="r", action=Action.DENY)
    check_rules((rule,), trust_domain="mesh.test")
    with pytest.raises(InputError, match="same name"):
        check_rules((rule, rule), trust_domain="mesh.test")
    own = Rule(name="r", action=Action.ALLOW, peers=(Peer(spiffe_id="spiffe://mesh.test/x"),))
    with pytest.raises(InputError, match="own trust domain"):
        check_rules((own,), trust_domain="mesh.test")


def test_a_namespaces_rules_name_a_bounded_number_of_hosts_whoever_writes_them() -> None:
    def allow(number: int) -> Rule:
        peer = Peer(unidentified=True, hosts=(f"h{number}.example.com",))
        return Rule(name=f"r{number}", action=Action.ALLOW, direction=Direction.EGRESS, peers=(peer,))

    rules = [allow(number) for number in range(MAX_HOSTS)]
    check_rules(rules, trust_domain="mesh.test")
    with pytest.raises(InputError, match=f"{MAX_HOSTS + 1} different hosts"):
        check_rules([*rules, allow(MAX_HOSTS)], trust_domain="mesh.test")
