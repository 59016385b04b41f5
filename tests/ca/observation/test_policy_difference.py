"""Documents take the place of what is in force, for the question alone (``ca.observation.policy_difference``)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ca.observation.policy_difference import propose
from ca.runtime.compose import RunningCA
from shared.model.policy.decision import Answer, PartyRecord
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Action, Approval, Direction, Mode, NamespaceState, Peer, Rule
from shared.model.wire import admin as api
from shared.model.wire.admin_difference import PolicyDifference
from shared.model.wire.messages import Decisions, DecisionsStored
from tests.ca.running import CURL, WEB, Admin, FakeSidecar, make_decision, running_ca

DENY = Rule(name="none", action=Action.DENY)


def test_a_program_replaces_the_one_of_its_name_and_a_policy_without_mode_keeps_it() -> None:
    approvals = (
        Approval(service_account="web", program=WEB, name="web"), Approval(service_account="web", program=WEB, name="b")
    )  # fmt: skip
    state = NamespaceState(namespace="shop", mode=Mode.EXPLICIT, approvals=approvals)
    asked = api.PolicyDifferenceRequest(
        policies=(api.PolicyRequest(namespace="shop", rules=(DENY,)),),
        programs=(
            api.ProgramRequest(namespace="shop", service_account="web", programs=(CURL,), name="web"),
            api.ProgramRequest(namespace="bank", service_account="teller", programs=(CURL,), name="curl"),
        ),
    )
    states = propose({"shop": state}, asked)
    assert (states["shop"].mode, states["shop"].rules) == (Mode.EXPLICIT, (DENY,))
    assert [(each.name, each.program) for each in states["shop"].approvals] == [("b", WEB), ("web", CURL)]
    assert [each.program for each in states["bank"].approvals] == [CURL]


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[RunningCA]:
    async with running_ca(tmp_path) as running:
        yield running


@pytest.fixture
async def admin(services: RunningCA) -> AsyncIterator[Admin]:
    async with Admin(services) as client:
        yield client


async def test_the_ca_says_what_would_be_denied_and_puts_nothing_in_force(services: RunningCA, admin: Admin) -> None:
    now = services.clock()
    async with FakeSidecar(services) as reporter:
        await reporter.enrol("reporter")
        records = tuple(
            make_decision(f"c{number}", time=now, answer=Answer.ALLOW, would_deny=True, reason=Reason.NO_RULE)
            for number in range(3)
        )
        await reporter.send(Decisions(batch=1, records=records))
        await reporter.expect(DecisionsStored)
        asked = api.PolicyDifferenceRequest(policies=(api.PolicyRequest(namespace="shop", rules=(DENY,)),))
        path = "/v1/policies/difference"
        found = await admin.ask("POST", path, PolicyDifference, asked)
        (denied,) = found.denied
        assert (denied.before, denied.after, denied.rule, denied.connections) == ("would deny", "deny", "shop/none", 3)
        assert (found.allowed, found.unchanged, found.unknown, found.unknowns) == ((), 0, 0, ())
        nothing = await admin.ask("POST", path, PolicyDifference, api.PolicyDifferenceRequest(programs=(
            api.ProgramRequest(namespace="bank", service_account="teller", programs=(CURL,), name="curl"),
        )))  # fmt: skip
        assert nothing.unknowns == ("nothing was seen of bank in this time",)
        assert (await admin.get("/v1/namespaces/shop", NamespaceState)).rules == ()
        bad = {"policies": [{"namespace": "No_Name"}]}
        assert (await admin.fail("POST", path, 400, bad)).code == "bad_identity"


@pytest.mark.parametrize("address", ["192.0.2.7:443", "[2001:db8::7]:443"])
async def test_what_a_rule_by_addresses_would_allow_is_said(services: RunningCA, admin: Admin, address: str) -> None:
    peer = Peer(unidentified=True, cidrs=("192.0.2.0/24", "2001:db8::/32"))
    rule = Rule(name="out", action=Action.ALLOW, direction=Direction.EGRESS, peers=(peer,))
    program = api.ProgramRequest(namespace="shop", service_account="web", programs=(WEB,), name="web")
    with_rule = api.PolicyDifferenceRequest(
        policies=(api.PolicyRequest(namespace="shop", rules=(rule,)),), programs=(program,)
    )
    async with FakeSidecar(services) as reporter:
        await reporter.enrol("reporter")
        record = make_decision(
            "c", time=services.clock(), direction=Direction.EGRESS, answer=Answer.ALLOW, would_deny=False,
            reason=Reason.ALLOW_RULE, rule="shop/out", mode=Mode.PERMISSIVE, port=443,
            source=PartyRecord(address="198.18.0.2:40000", workload="shop/web", program=f"sha256:{WEB.digest}"),
            destination=PartyRecord(address=address, why="peer_unidentified"),
        )  # fmt: skip
        await reporter.send(Decisions(batch=1, records=(record,)))
        await reporter.expect(DecisionsStored)
        found = await admin.ask("POST", "/v1/policies/difference", PolicyDifference, with_rule)
        (allowed,) = found.allowed
        assert (allowed.before, allowed.after, allowed.rule) == ("would deny", "allow", "shop/out")
