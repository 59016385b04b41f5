"""What the page changes (``cli.ui.actions``), and for whom it offers it: as the commands do, and for no other page."""

from __future__ import annotations

import http.client
import json
import os
import shlex
from contextlib import closing
from typing import Any

import msgspec
import pytest

from cli.ui.actions import MAX_BODY_BYTES
from cli.ui.guard import TOKEN_HEADER
from shared.model.identity.loaded_code import LoadedCode, LoadedObject
from shared.model.identity.program import Program
from shared.model.policy.rules import Action, Mode, NamespaceState, Rule
from shared.model.wire.admin import History, ProgramView
from shared.model.wire.admin_history import ModeTrial
from tests.cli.ui.conftest import TOKEN, Served
from tests.cli.ui.test_answers import get
from tests.cli.ui.world import DRAFT, READINESS, fill

NGINX, PYTHON, MINER = "1a" * 32, "2b" * 32, "3c" * 32
APPROVE = {"act": "approve", "namespace": "shop", "workload": "shop/web", "program": f"sha256:{NGINX}"}


def change(page: Served, request: Any, **headers: str) -> tuple[int, dict[str, Any]]:
    own = {
        TOKEN_HEADER: TOKEN, "Origin": f"http://127.0.0.1:{page.port}", "Content-Type": "application/json",
        "Sec-Fetch-Site": "same-origin",
    }  # fmt: skip
    sent = {name: value for name, value in {**own, **headers}.items() if value}
    with closing(http.client.HTTPConnection("127.0.0.1", page.port, timeout=60)) as connection:
        connection.request("POST", "/api/act", body=json.dumps(request).encode(), headers=sent)
        response = connection.getresponse()
        return response.status, json.load(response)


def changes(page: Served) -> list[str]:
    return [key for key, _, _ in page.ca.requests if not key.startswith("GET")]


@pytest.mark.parametrize(
    "headers",
    [
        {TOKEN_HEADER: ""},
        {TOKEN_HEADER: "another"},
        {"Origin": ""},
        {"Origin": "http://evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Content-Type": "text/plain"},
        {TOKEN_HEADER: "", "Cookie": f"{TOKEN_HEADER}={TOKEN}"},
    ],
    ids=str,
)
def test_another_page_changes_nothing(page: Served, headers: dict[str, str]) -> None:
    assert change(page, APPROVE, **headers)[0] == 403
    assert page.ca.requests == []


@pytest.mark.parametrize(
    "request_",
    [
        "x", {}, {**APPROVE, "act": "evict"}, {**APPROVE, "more": 1}, {**APPROVE, "namespace": "../x"},
        {**APPROVE, "namespace": "bank"}, {**APPROVE, "program": "curl"}, {**APPROVE, "workload": "x" * MAX_BODY_BYTES},
        {"act": "mode", "namespace": "shop"}, {"act": "promote", "namespace": "shop"},
        {"act": "drop", "namespace": "shop", "draft": -1},
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_what_cannot_be_done_is_refused(page: Served, request_: Any) -> None:
    assert change(page, request_)[0] == 400
    assert changes(page) == []


def test_a_program_is_approved_with_what_was_seen_and_a_weak_one_only_with_consent(page: Served) -> None:
    page.ca.answers["POST /v1/programs"] = ProgramView(
        namespace="shop", name="web-1", service_account="web", programs=(Program(digest=NGINX),), weak=False,
        approved_by="me", approved=1.0,
    )  # fmt: skip
    assert change(page, APPROVE) == (200, {"text": "approved for shop/web"})
    weak = {**APPROVE, "program": f"sha256:{PYTHON}/main:none"}
    status, failure = change(page, weak)
    assert (status, "any Python program" in failure["message"]) == (400, True)
    assert change(page, {**weak, "accepts": True})[0] == 200
    assert [each.get("weak", False) for each in page.ca.asked("POST /v1/programs")] == [False, True]
    assert change(page, {**APPROVE, "program": "sha256:" + "77" * 32})[0] == 409, "it doesn't wait"


def test_only_what_was_shown_is_approved(page: Served) -> None:
    page.ca.answers["POST /v1/programs"] = ProgramView(
        namespace="shop", name="web-1", service_account="web", programs=(Program(digest=NGINX),), weak=False,
        approved_by="me", approved=1.0,
    )  # fmt: skip
    queue = page.ca.answers["GET /v1/programs/queue"]
    nginx = queue.waiting[0]
    code = LoadedCode(objects=(LoadedObject(path="/tmp/evil.so", digest="66" * 32),), anonymous=True)
    loaded = msgspec.structs.replace(nginx, seen=msgspec.structs.replace(nginx.seen, code=code))
    page.ca.answers["GET /v1/programs/queue"] = msgspec.structs.replace(queue, waiting=(loaded, *queue.waiting[1:]))
    assert change(page, APPROVE)[0] == 409, "it had loaded nothing when the page showed it"
    assert changes(page) == []
    shown = get(page, "queue?namespace=shop")["waiting"][0]
    assert shown["loaded"] == ["/tmp/evil.so (sha256:666666666666)"]
    assert "only reported" in shown["loaded_note"]
    assert change(page, {**APPROVE, "code_digest": shown["code_digest"]})[0] == 200
    [request] = page.ca.asked("POST /v1/programs")
    assert request["code"]["check"] == "report"


def test_a_program_is_refused_and_taken_back(page: Served) -> None:
    assert change(page, {**APPROVE, "act": "refuse"})[0] == 200
    taken = {"act": "take_back", "namespace": "shop", "workload": "shop/db", "program": f"sha256:{MINER}"}
    assert change(page, taken) == (200, {"text": "may be proposed again for shop/db"})
    asked = page.ca.asked("POST /v1/namespaces/shop/refusals")
    assert [each.get("takes_back", False) for each in asked] == [False, True]


def test_a_mode_is_switched_unless_it_is_blocked(page: Served) -> None:
    page.ca.answers["PUT /v1/namespaces/bank/mode"] = NamespaceState(namespace="bank", mode=Mode.EXPLICIT)
    status, failure = change(page, {"act": "mode", "namespace": "shop", "mode": "explicit", "accepts": True})
    assert (status, failure["code"]) == (403, "blocked")
    assert changes(page) == []
    assert change(page, {"act": "mode", "namespace": "bank", "mode": "explicit"})[0] == 200
    assert [each["mode"] for each in page.ca.asked("PUT /v1/namespaces/bank/mode")] == ["explicit"]


def test_a_missing_rule_is_written_if_it_is_the_one_that_was_shown(page: Served) -> None:
    page.ca.answers["PUT /v1/policies"] = page.ca.answers["GET /v1/policies"].policies[0]
    digest = get(page, "readiness?namespace=shop")["causes"][0]["fix"]["rule"]
    request = {"act": "rule", "namespace": "shop", "rule": digest, "since": "7d"}
    assert change(page, {**request, "rule": "00" * 32})[0] == 409
    assert change(page, {**request, "since": "never"})[0] == 400
    assert changes(page) == []
    assert change(page, request) == (200, {"text": "bank-teller-to-api-8080-2 is written into shop"})
    [written] = page.ca.asked("PUT /v1/policies")
    assert [rule["name"] for rule in written["rules"]] == ["bank-teller-to-api-8080", "bank-teller-to-api-8080-2"]
    assert (written["group_label"], written.get("mode")) == ("team", None)
    assert written["expected_version"] == page.ca.answers["GET /v1/namespaces/shop"].version


def test_while_a_mode_is_on_trial_no_rule_is_offered_or_written(page: Served) -> None:
    trial = ModeTrial(mode=Mode.PERMISSIVE, back_to=Mode.EXPLICIT, started=1.0, until=1.9e9)
    page.ca.answers["GET /v1/namespaces/shop/history"] = History(namespace="shop", generations=(), trial=trial)
    digest = get(page, "readiness?namespace=shop")["causes"][0]["fix"]["rule"]
    assert get(page, "rules?namespace=shop")["rules"] == {}
    assert change(page, {"act": "rule", "namespace": "shop", "rule": digest})[0] == 409
    assert changes(page) == []


def test_the_queue_has_the_command_of_each_act(page: Served) -> None:
    queue = get(page, "queue?namespace=shop")
    first, second = queue["waiting"]
    there = f" --admin-socket {shlex.quote(str(page.ca.socket))}"
    assert first["approve"]["line"] == f"touchmark program approve shop/web sha256:{NGINX} --from-queue{there}"
    assert second["approve"]["line"].endswith(f"sha256:{PYTHON}/main:none --from-queue --weak{there}")
    assert queue["refused"][0]["take_back"]["line"].endswith(f"--take-back{there}")


def test_who_may_change_nothing_is_offered_nothing(page: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(get(page, "rights?namespace=shop").values()) == {True}, "the CA's own user"
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert set(get(page, "rights?namespace=shop").values()) == {False}


PROMOTE = {"act": "promote", "namespace": "shop", "draft": DRAFT.draft.number}


def test_the_draft_that_was_shown_is_put_in_force_by_the_checks_of_the_command(page: Served) -> None:
    """Explicit mode would refuse what is seen here: a draft that has it isn't put in force."""
    page.ca.answers["GET /v1/namespaces/shop/draft"] = msgspec.structs.replace(
        DRAFT, draft=msgspec.structs.replace(DRAFT.draft, mode=None)
    )
    status, done = change(page, PROMOTE)
    assert (status, done["text"]) == (200, "the draft of shop is in force")
    assert page.ca.asked("POST /v1/namespaces/shop/draft/promote") == [{"number": DRAFT.draft.number}]
    fill(page.ca)
    page.ca.answers["POST /v1/namespaces/shop/readiness"] = READINESS
    status, refused = change(page, PROMOTE)
    assert status == 403
    assert "would refuse live traffic (2 changes are missing)" in refused["message"]
    assert len(page.ca.asked("POST /v1/namespaces/shop/draft/promote")) == 1


def test_a_draft_that_lint_finds_in_error_isnt_put_in_force_and_the_page_says_why(page: Served) -> None:
    rules = (Rule(name="none", action=Action.DENY), Rule(name="all", action=Action.ALLOW))
    page.ca.answers["GET /v1/namespaces/shop/draft"] = msgspec.structs.replace(
        DRAFT, draft=msgspec.structs.replace(DRAFT.draft, mode=None, rules=rules)
    )
    status, refused = change(page, PROMOTE)
    assert (status, page.ca.asked("POST /v1/namespaces/shop/draft/promote")) == (403, [])
    assert "finds 1 error: ✗ shop/all: contradictory: none denies the same" in refused["message"]


def test_another_draft_than_was_shown_is_neither_put_in_force_nor_dropped(page: Served) -> None:
    status, refused = change(page, {**PROMOTE, "draft": DRAFT.draft.number - 1})
    assert (status, refused["message"]) == (409, "shop has another draft by now")
    assert change(page, {**PROMOTE, "act": "drop"})[0] == 200
    asked = [query for key, query, _ in page.ca.requests if key.startswith("DELETE")]
    assert asked == [{"number": str(DRAFT.draft.number)}], "the CA compares it"
    assert page.ca.asked("POST /v1/namespaces/shop/draft/promote") == []


def test_newer_rules_are_taken_back_only_by_consent(page: Served) -> None:
    page.ca.answers["GET /v1/namespaces/shop/draft"] = msgspec.structs.replace(
        DRAFT, is_outdated=True, draft=msgspec.structs.replace(DRAFT.draft, mode=None)
    )
    status, refused = change(page, PROMOTE)
    assert (status, refused["code"]) == (409, "conflict")
    assert changes(page) == []
    assert change(page, {**PROMOTE, "accepts": True})[0] == 200
    asked = page.ca.asked("POST /v1/namespaces/shop/draft/promote")
    assert asked == [{"number": DRAFT.draft.number, "takes_back": True}]
