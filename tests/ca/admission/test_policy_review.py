"""Which MeshPolicies are judged at admission, and what their writers read."""

from __future__ import annotations

from typing import Any

import pytest

from ca.admission.policy_review import review_policy
from ca.admission.review import Kind, Request
from shared.model.errors import BlockedError
from shared.model.kubernetes.contract import FORCE_EXPLICIT
from shared.model.policy.documents import MeshPolicyDocument
from tests.ca.admission.reviews import Json, read_response
from tests.shared.model.policy.object_cases import policy

RULE = {"name": "web", "action": "allow", "ports": [80]}


class Judge:
    """Finds each namespace blocked."""

    def __init__(self) -> None:
        self.asked: list[MeshPolicyDocument] = []

    async def __call__(self, document: MeshPolicyDocument) -> object:
        self.asked.append(document)
        raise BlockedError("shop is unchanged: a → b", hint="look")


def make(spec: Json | None, mark: str = "") -> dict[str, Any]:
    made = policy(spec)
    if mark:
        made["metadata"] = {**made["metadata"], "annotations": {FORCE_EXPLICIT: mark}}
    return made


async def ask(judge: Judge, new: Json, old: Json | None = None, *, dry_run: bool = False) -> Json:
    review = Request(
        uid="u",
        kind=Kind(kind="MeshPolicy", group="touchmark.dev"),
        operation="UPDATE" if old else "CREATE",
        object=new,
        old_object=old,
        dry_run=dry_run,
    )
    return read_response(await review_policy(review, judge))


async def test_a_policy_that_would_refuse_what_was_seen_is_refused_by_its_own_rules() -> None:
    judge = Judge()
    response = await ask(judge, make({"mode": "explicit", "rules": [RULE]}))
    assert (response["allowed"], response["status"]["code"]) == (False, 403)
    assert response["status"]["message"].startswith("blocked: shop is unchanged")
    assert FORCE_EXPLICIT in response["status"]["message"]
    (document,) = judge.asked
    assert (document.namespace, [rule.name for rule in document.rules]) == ("shop", ["web"])


async def test_a_dry_run_is_warned_of() -> None:
    response = await ask(Judge(), make({"mode": "explicit"}), dry_run=True)
    assert response["allowed"] is True
    assert response["warnings"][0].startswith("blocked: shop is unchanged")


@pytest.mark.parametrize(
    "spec", [{"mode": "permissive"}, {"rules": [RULE]}, {}, None, {"mode": "explicit", "unknown": 1}], ids=repr
)
async def test_what_makes_nothing_explicit_or_cannot_be_read_is_not_judged(spec: Json | None) -> None:
    judge = Judge()
    assert (await ask(judge, make(spec)))["allowed"] is True
    assert not judge.asked


async def test_force_counts_in_the_write_that_brings_it() -> None:
    judge = Judge()
    explicit = {"mode": "explicit"}
    first = await ask(judge, make(explicit, "1"))
    assert (first["allowed"], len(first["warnings"])) == (True, 1)
    assert (await ask(judge, make(explicit, "2"), make({}, "1")))["allowed"] is True
    assert not judge.asked
    assert (await ask(judge, make(explicit, "1"), make({}, "1")))["allowed"] is False, "it was there before"


async def test_a_policy_with_workloads_modes_is_judged_whatever_the_namespaces_mode() -> None:
    """Taking a mode away may make a workload explicit as well: the judge compares with what is in force."""
    for modes in ({"db": "explicit"}, {}):
        judge = Judge()
        assert (await ask(judge, make({"workloadModes": modes})))["allowed"] is False
        (document,) = judge.asked
        assert {each.service_account: each.mode.value for each in document.workload_modes or ()} == modes


async def test_a_draft_passes_and_its_writer_reads_what_it_would_meet_in_force() -> None:
    judge = Judge()
    for spec in ({"draft": True, "mode": "explicit"}, {"draft": True, "workloadModes": {"db": "explicit"}}):
        response = await ask(judge, policy(spec, name="draft"))
        assert response["allowed"]
        assert response["warnings"] == ["nothing of a draft is in force; if this one were: shop is unchanged: a → b"]
    response = await ask(judge, policy({"draft": True, "rules": [RULE]}, name="draft"))
    assert response["allowed"] and "warnings" not in response
    assert len(judge.asked) == 2
