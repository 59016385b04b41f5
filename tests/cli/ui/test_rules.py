"""Missing rules as the page names and writes them (``cli.ui.rules``); the whole way is in ``test_actions.py``."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest

from cli.backends.base import PolicyBackend
from cli.ui.rules import digest_rule, list_missing, plan_policy, read_policy, write_command
from shared.model.errors import ConflictError
from shared.model.policy.documents import MeshPolicyDocument, ModeTrial, make_plain, parse_documents
from shared.model.policy.rules import Mode
from tests.cli.ui.world import CAUSES, READINESS, RULE


class Kept:
    """A backend that keeps one policy."""

    def __init__(self, *documents: MeshPolicyDocument) -> None:
        self._documents = documents

    async def list_objects(self, _namespace: str) -> list[dict[str, Any]]:
        return make_plain(self._documents)


def keep(*documents: MeshPolicyDocument) -> PolicyBackend:
    return cast("PolicyBackend", Kept(*documents))


def test_only_rules_of_the_namespaces_own_policy_are_missing_in_it() -> None:
    assert list_missing(READINESS) == {digest_rule("shop", RULE): RULE}
    assert CAUSES[0].fix is not None
    elsewhere = msgspec.structs.replace(CAUSES[0], fix=msgspec.structs.replace(CAUSES[0].fix, namespace="bank"))
    assert list_missing(msgspec.structs.replace(READINESS, causes=(elsewhere, CAUSES[1]))) == {}
    assert digest_rule("bank", RULE) != digest_rule("shop", RULE)


async def test_a_policy_keeps_all_that_it_says_but_a_trial() -> None:
    trial = ModeTrial(back_to=Mode.PERMISSIVE, until=1_900_000_000.0)
    kept = MeshPolicyDocument(namespace="shop", mode=Mode.EXPLICIT, group_label="team", trial=trial)
    assert await read_policy(keep(kept), "shop") == msgspec.structs.replace(kept, trial=None)
    assert await read_policy(keep(), "shop") == MeshPolicyDocument(namespace="shop")
    planned = await plan_policy(keep(kept), READINESS, digest_rule("shop", RULE))
    assert (planned.rules, planned.group_label, planned.mode) == ((RULE,), "team", Mode.EXPLICIT)
    lines = write_command(planned, options=" -k")
    assert (lines[0], lines[-1]) == ("touchmark policy apply -f - -k <<'EOF'", "EOF")
    assert parse_documents("\n".join(lines[1:-1])) == [planned]


async def test_a_rule_that_is_not_missing_any_more_is_not_written() -> None:
    changed = msgspec.structs.replace(RULE, ports=())
    with pytest.raises(ConflictError):
        await plan_policy(keep(), READINESS, digest_rule("shop", changed))
