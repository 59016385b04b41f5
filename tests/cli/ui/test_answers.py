"""What the page may ask: reading alone, in the commands' words, and nobody's control characters."""

from __future__ import annotations

import json
import shlex
from typing import Any

import msgspec
import pytest

from cli.ui import shapes
from cli.ui.answers import MAX_EDGES, write
from shared.model.adoption.fixes import FixKind
from shared.model.policy.documents import MeshPolicyDocument, parse_documents
from shared.model.policy.reasons import Reason
from shared.model.wire.admin import MAX_EDGES_LISTED, ErrorAnswer
from tests.cli.edges import DENY, list_edges, make_edge
from tests.cli.ui.conftest import Served
from tests.cli.ui.test_server import SESSION, ask
from tests.cli.ui.world import HOSTILE, INTRUDER

PATHS = (
    "start", "namespaces", "readiness?namespace=shop", "coverage?namespace=shop", "edges?namespace=shop&show=all",
    "edge?namespace=shop&source=shop/cron&destination=shop/db&port=5432", "sidecars", "ca", "audit",
    "timeline?namespace=shop&since=7d", "decisions?namespace=shop&show=denied", "rules?namespace=shop&since=7d",
)  # fmt: skip


def get(page: Served, path: str) -> Any:
    with ask(page, f"/api/{path}", **SESSION) as response:
        body = json.load(response)
        assert response.status == 200, body
        return body


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_is_printable_and_only_reads(page: Served, path: str) -> None:
    def check(value: Any) -> None:
        if isinstance(value, str):
            assert value.isprintable()
        elif isinstance(value, dict):
            for key, each in value.items():
                check(key)
                check(each)
        elif isinstance(value, list):
            for each in value:
                check(each)

    check(get(page, path))
    assert {key.partition(" ")[0] for key, _, _ in page.ca.requests} == {"GET"}


@pytest.mark.parametrize("path", PATHS)
def test_what_a_question_doesnt_know_is_refused(page: Served, path: str) -> None:
    with ask(page, f"/api/{path}{'&' if '?' in path else '?'}limit=1", **SESSION) as response:
        assert response.status == 400
        assert "limit" in json.load(response)["message"]
    assert page.ca.requests == []


@pytest.mark.parametrize(
    "path",
    [
        "edges?namespace=../secrets", "edges?namespace=", "edges?namespace=shop&since=never",
        "decisions?namespace=shop&show=open", "rules?namespace=shop&since=never", "timeline?since=1h",
        "edge?namespace=shop&port=x", "edges?namespace=shop&show=some",
        "edges?namespace=shop&rules=other", "draft?namespace=",
        "edge?namespace=shop&port=²", f"edges?namespace=shop&node={'x' * 3000}",
    ],
)  # fmt: skip
def test_values_that_cannot_be_are_refused(page: Served, path: str) -> None:
    with ask(page, "/api/" + path.replace("²", "%C2%B2"), **SESSION) as response:
        assert response.status == 400
    assert page.ca.requests == []


def test_a_cause_has_the_command_or_the_yaml_that_fixes_it(page: Served) -> None:
    answer = get(page, "readiness?namespace=shop&since=7d")
    rule, approval = answer["causes"]
    assert rule["fix"]["kind"] == FixKind.RULE
    assert rule["fix"]["lines"][0] == "add to spec.rules of MeshPolicy shop/default:"
    assert rule["fix"]["copied"][:2] == ["- name: bank-teller-to-api-8080", "  action: allow"]
    there = f"--admin-socket {shlex.quote(str(page.ca.socket))}"
    assert approval["fix"]["copied"] == [f"touchmark program approve shop/cron {INTRUDER.program} {there}"]
    assert "\\x1b[31m" in approval["text"]
    [refused] = answer["refused"]
    assert refused["fix"]["lines"] == ["alice has refused this program"]
    assert answer["failures"][0]["fix"]["lines"] == ["Start it."]
    assert answer["readiness"]["causes"] == []


def test_the_newest_decisions_are_asked_for_by_their_verdict(page: Served) -> None:
    [line] = get(page, "decisions?namespace=shop&show=denied")["decisions"]
    assert (line["verdict"], line["source"], line["destination"], line["port"]) == (
        "deny",
        "shop/cron",
        "shop/db",
        5432,
    )
    get(page, "decisions?namespace=shop")
    asked = [query for key, query, _ in page.ca.requests if key == "GET /v1/decisions"]
    assert [(query.get("denied"), query["namespace"], query["limit"]) for query in asked] == [
        ("true", "shop", "100"), (None, "shop", "100"),
    ]  # fmt: skip


def test_a_missing_rule_has_the_command_that_writes_it(page: Served) -> None:
    """The whole policy with the rule, whose name is taken here: what it says is applied by the command itself."""
    digest = get(page, "readiness?namespace=shop")["causes"][0]["fix"]["rule"]
    rules = get(page, "rules?namespace=shop")["rules"]
    assert list(rules) == [digest]
    command, *lines, end = rules[digest]
    assert (
        command
        == f"touchmark policy apply -f - --if-version 7 --admin-socket {shlex.quote(str(page.ca.socket))} <<'EOF'"
    )
    [document] = parse_documents("\n".join(lines))
    assert isinstance(document, MeshPolicyDocument)
    assert [rule.name for rule in document.rules] == ["bank-teller-to-api-8080", "bank-teller-to-api-8080-2"]
    assert (document.group_label, end) == ("team", "EOF")


def test_a_link_has_its_programs_decisions_and_fixes(page: Served) -> None:
    answer = get(page, "edge?namespace=shop&source=shop/cron&destination=shop/db&port=5432")
    assert [edge["source"]["workload"] for edge in answer["edges"]] == ["shop/cron"]
    assert [decision["id"] for decision in answer["decisions"]] == [4711]
    assert (Reason.PROGRAM_NOT_APPROVED, "approve") in [(reason, fix["kind"]) for reason, fix in answer["fixes"]]
    assert get(page, "edge?namespace=shop&source=shop/cron&destination=shop/db&port=1")["decisions"] == []
    [query] = [query for key, query, _ in page.ca.requests if key == "GET /v1/decisions"][:1]
    assert query["workload"] == "shop/cron"


def test_edges_are_read_in_pages_to_a_bound(page: Served) -> None:
    part = [make_edge(outcome, port=n + 1) for n, outcome in enumerate([INTRUDER] * 3)]
    page.ca.answers["GET /v1/namespaces/shop/edges"] = list_edges(*part, total=7)
    answer = get(page, "edges?namespace=shop&show=all")
    assert (answer["total"], answer["read"]) == (7, 9)
    offsets = [query.get("offset") for key, query, _ in page.ca.requests if key.endswith("/edges")]
    assert offsets == [None, "3", "6"]
    assert MAX_EDGES == 2 * MAX_EDGES_LISTED
    page.ca.answers["GET /v1/namespaces/shop/edges"] = [list_edges(*part, total=7), list_edges(total=7)]
    assert get(page, "edges?namespace=shop&show=all")["read"] == 3, "a page that is empty is the last"


def test_the_start_has_every_reason_and_where_the_ca_is(page: Served) -> None:
    start = get(page, "start")
    assert set(start["reasons"]) == {reason.value for reason in Reason}
    assert (start["target"], start["options"]) == (
        "CA on this machine", f"--admin-socket {shlex.quote(str(page.ca.socket))}",
    )  # fmt: skip


def test_writing_escapes_every_string_and_key() -> None:
    failure = shapes.Failure(code="x", message=HOSTILE)
    written = json.loads(write(failure))
    assert written["message"].startswith("/tmp/<img")
    assert "\\u202e" in written["message"]
    assert json.loads(write({"\x1b": [DENY.detail, 1, None, True]})) == {"\\x1b": ["", 1, None, True]}
    assert msgspec.json.decode(write((1.5,))) == [1.5]


def test_who_may_see_one_namespace_sees_it_whole(page: Served) -> None:
    """What the CA tells about the whole mesh is refused; the namespace's own links, decisions and rules are not."""
    refused = ErrorAnswer(code="not_allowed", message="no")
    everything = page.ca.answers["GET /v1/decisions"]
    states = page.ca.answers["GET /v1/namespaces"].namespaces
    page.ca.answers |= {"GET /v1/status": refused, "GET /v1/namespaces": refused}
    page.ca.answers |= {"GET /v1/decisions": [refused, everything], "GET /v1/namespaces/shop": states[1]}
    assert get(page, "start")["trust_domain"] == ""
    answer = get(page, "edge?namespace=shop&source=shop/cron&destination=shop/db&port=5432")
    assert [decision["id"] for decision in answer["decisions"]] == [4711]
    assert [query.get("namespace") for key, query, _ in page.ca.requests if key == "GET /v1/decisions"] == [
        None,
        "shop",
    ]
    with ask(page, "/api/namespaces", **SESSION) as response:
        assert (response.status, json.load(response)["code"]) == (403, "not_allowed")
