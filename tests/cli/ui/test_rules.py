"""Missing rules as the page names and writes them (``cli.ui.rules``); the whole way is in ``test_actions.py``."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest

from cli.backends.base import ModeState, PolicyBackend
from cli.ui.rules import digest_rule, list_missing, plan_policy, read_policy, write_command
from shared.model.errors import ConflictError
from shared.model.policy.documents import MeshPolicyDocument, ModeTrial, make_plain, parse_documents
from shared.model.policy.rules import Mode
from tests.cli.ui.world import CAUSES, READINESS, RULE


class Kept:
    """A backend that keeps one policy."""

    def __init__(self, *documents: MeshPolicyDocument, back_to: Mode | None) -> None:
        self._documents = documents
        self._back_to = back_to

    async def list_objects(self, _namespace: str) -> list[dict[str, Any]]:
        return make_plain(self._documents)

    async def get_mode(self, namespace: str) -> ModeState:
        return ModeState(
            namespace=namespace, wanted=None, mode=None, version=1, installed=0, total=0, waiting=(),
            back_to=self._back_to,
        )  # fmt: skip


def keep(*documents: MeshPolicyDocument, back_to: Mode | None = None) -> PolicyBackend:
    return cast("PolicyBackend", Kept(*documents, back_to=back_to))


def test_only_rules_of_the_namespaces_own_policy_are_missing_in_it() -> None:
    assert list_missing(READINESS) == {digest_rule("shop", RULE): RULE}
    assert CAUSES[0].fix is not None
    elsewhere = msgspec.structs.replace(CAUSES[0], fix=msgspec.structs.replace(CAUSES[0].fix, namespace="bank"))
    assert list_missing(msgspec.structs.replace(READINESS, causes=(elsewhere, CAUSES[1]))) == {}
    assert digest_rule("bank", RULE) != digest_rule("shop", RULE)


@pytest.mark.parametrize("in_cluster", [True, False])
async def test_a_policy_keeps_all_that_it_says(in_cluster: bool) -> None:
    """On a machine its mode isn't part of it: what is in force stays, and may have changed since it was read."""
    kept = MeshPolicyDocument(namespace="shop", mode=Mode.EXPLICIT, group_label="team")
    digest = digest_rule("shop", RULE)
    planned, version = await plan_policy(keep(kept), READINESS, digest, in_cluster=in_cluster)
    mode = Mode.EXPLICIT if in_cluster else None
    assert (planned.rules, planned.group_label, planned.mode) == ((RULE,), "team", mode)
    assert version == 1
    lines = write_command(planned, version=version, options=" -k")
    assert (lines[0], lines[-1]) == ("touchmark policy apply -f - --if-version 1 -k <<'EOF'", "EOF")
    assert parse_documents("\n".join(lines[1:-1])) == [planned]
    assert await read_policy(keep(), "shop", in_cluster=in_cluster) == (MeshPolicyDocument(namespace="shop"), 1)


@pytest.mark.parametrize("is_over", [True, False])
async def test_while_the_mode_is_on_trial_nothing_is_written_that_would_keep_it(is_over: bool) -> None:
    """A break-glass to permissive would stay for good. In a cluster the trial is in the object also when it is over."""
    trial = ModeTrial(back_to=Mode.EXPLICIT, until=1_900_000_000.0)
    tried = MeshPolicyDocument(namespace="shop", mode=Mode.PERMISSIVE, trial=trial)
    in_cluster = keep(tried, back_to=None if is_over else Mode.EXPLICIT)
    on_a_machine = keep(msgspec.structs.replace(tried, trial=None), back_to=Mode.EXPLICIT)
    for backend, is_cluster in ((in_cluster, True), (on_a_machine, False)):
        with pytest.raises(ConflictError, match="on trial"):
            await plan_policy(backend, READINESS, digest_rule("shop", RULE), in_cluster=is_cluster)


async def test_a_rule_that_is_not_missing_any_more_is_not_written() -> None:
    changed = msgspec.structs.replace(RULE, ports=())
    with pytest.raises(ConflictError, match="isn't missing"):
        await plan_policy(keep(), READINESS, digest_rule("shop", changed), in_cluster=False)
