"""What the page says of a draft, and what the draft makes of each link (``cli.ui.drafts``)."""

from __future__ import annotations

import msgspec

from cli.ui.drafts import ALLOWED, DENIED, MARKED, SETTLED, UNKNOWN, Redecided
from cli.ui.picture import Show, show_edges
from shared.model.adoption.fixes import Fix, FixKind
from shared.model.policy.rules import Direction
from shared.model.wire.admin import DecidedOtherwise, DraftView
from shared.model.wire.admin_edges import EdgeEnd, EdgeView
from tests.cli.edges import ALLOW, DB, DENY, WEB, list_edges, make_edge
from tests.cli.ui.conftest import Served
from tests.cli.ui.test_answers import get
from tests.cli.ui.world import DRAFT, EDGES

LINK = ("shop/web", "shop/db", 5432)
OTHER = EdgeEnd(workload="shop/web", program="sha256:" + "77" * 32)


def change(before: str, after: str, source: EdgeEnd = WEB) -> DecidedOtherwise:
    return msgspec.structs.replace(
        DRAFT.denied[0],
        before=before, after=after, source=source.name, source_program=source.program, destination=DB.name,
        destination_program=DB.program, port=5432,
    )  # fmt: skip


def decide(*edges: EdgeView, **changes: object) -> tuple[str, str, tuple[str, ...]]:
    view = msgspec.structs.replace(DRAFT, denied=(), allowed=())
    return Redecided(msgspec.structs.replace(view, **changes)).decide(LINK, edges)


def test_a_link_has_the_strictest_verdict_that_the_draft_leaves() -> None:
    mixed = make_edge(WEB, DB, ALLOW, DENY)
    assert decide(make_edge(WEB, DB)) == ("allow", "", ("allow_rule",))
    assert decide(make_edge(WEB, DB), denied=(change("allow", "deny"),)) == ("deny", DENIED, ("no_rule",))
    assert decide(make_edge(WEB, DB), denied=(change("allow", "would deny"),)) == ("would deny", MARKED, ("no_rule",))
    allowed = (change("deny", "allow"),)
    assert decide(make_edge(WEB, DB, DENY), allowed=allowed)[:2] == ("allow", ALLOWED)
    assert decide(mixed, allowed=(change("would deny", "allow"),))[:2] == ("deny", ALLOWED), "that stays refused"


def test_another_programs_connections_stay_as_they_are() -> None:
    both = (make_edge(WEB, DB, DENY), make_edge(OTHER, DB, DENY))
    assert decide(*both, allowed=(change("deny", "allow"),))[0] == "deny"
    assert decide(*both, allowed=(change("deny", "allow"), change("deny", "allow", OTHER)))[0] == "allow"


def test_what_no_verdict_of_the_draft_is_newer_than_isnt_called_unchanged() -> None:
    assert decide(make_edge(WEB, DB), evaluated_since=ALLOW.last + 1)[1] == UNKNOWN
    assert decide(make_edge(WEB, DB), evaluated_since=None)[1] == UNKNOWN
    assert decide(make_edge(WEB, DB), evaluated_since=ALLOW.last)[1] == ""


def test_the_picture_is_the_same_under_other_verdicts() -> None:
    """Every end has its place, so that both can be compared."""
    now = show_edges(list_edges(*EDGES), show=Show.ALL)
    drafted = show_edges(list_edges(*EDGES), show=Show.ALL, draft=DRAFT)
    assert drafted.nodes == now.nodes
    first, second, third = drafted.links[:3]
    assert [(each.change, each.before, each.verdict) for each in (first, second, third)] == [
        (DENIED, "allow", "deny"), (DENIED, "allow", "deny"), (ALLOWED, "would deny", "allow"),
    ]  # fmt: skip
    assert {(each.before, each.change) for each in now.links} == {("", "")}
    left = show_edges(list_edges(*EDGES), show=Show.OPEN, draft=DRAFT)
    assert [each.change for each in left.links] == [DENIED, DENIED, ALLOWED, "", "", ""], "changes aren't settled"


def test_the_page_has_each_fix_and_the_commands(page: Served) -> None:
    draft = get(page, "draft?namespace=shop")
    assert (draft["number"], draft["mode"], draft["rules"], draft["evaluating"]) == (7, "explicit", 1, 3)
    by_rule, denied = draft["denied"]
    assert by_rule["fixes"][0]["lines"][0].startswith("add to spec.rules of the draft: `touchmark policy draft shop")
    assert by_rule["fixes"][0]["copied"][0] == "- name: shop-web-to-api-8080"
    assert denied["fixes"][0]["kind"] == "advice"
    assert draft["allowed"][0]["change"] == ALLOWED
    assert draft["promote"]["line"].startswith("touchmark policy draft shop --promote --admin-socket")
    page.ca.answers["GET /v1/namespaces/shop/draft"] = msgspec.structs.replace(DRAFT, is_outdated=True)
    assert " --promote --force --admin" in get(page, "draft?namespace=shop")["promote"]["line"]


def test_the_page_shows_the_reporters_path_beside_its_own_program_alone(page: Served) -> None:
    denied = DRAFT.denied[0]
    ends = (denied.source, denied.source_program), (denied.destination, denied.destination_program)
    fixes = tuple(Fix(kind=FixKind.APPROVE, workload=workload, program=program) for workload, program in ends)
    for side, shown in ((Direction.EGRESS, [True, False]), (Direction.INGRESS, [False, True])):
        changed = msgspec.structs.replace(denied, side=side, path="/opt/own", fixes=fixes)
        page.ca.answers["GET /v1/namespaces/shop/draft"] = msgspec.structs.replace(DRAFT, denied=(changed,))
        (change,) = get(page, "draft?namespace=shop")["denied"]
        assert [fix["lines"][0].endswith("# /opt/own") for fix in change["fixes"]] == shown


def test_without_a_draft_the_page_says_how_to_write_one(page: Served) -> None:
    del page.ca.answers["GET /v1/namespaces/shop/draft"]
    draft = get(page, "draft?namespace=shop")
    assert draft["number"] == 0
    assert draft["write"][0].startswith("touchmark policy apply -f FILE --draft")
    links = get(page, "edges?namespace=shop&show=all&rules=draft")["links"]
    assert {each["change"] for each in links} == {""}


def test_what_is_allowed_by_now_is_told_apart_and_an_objects_draft_is_dropped_in_a_terminal(page: Served) -> None:
    settled = msgspec.structs.replace(DRAFT.denied[0], fixes=())
    view = msgspec.structs.replace(DRAFT, settled=(settled,), is_object=True)
    page.ca.answers["GET /v1/namespaces/shop/draft"] = view
    draft = get(page, "draft?namespace=shop")
    assert [each["change"] for each in draft["settled"]] == [SETTLED]
    assert draft["is_object"] is True
    assert draft["drop"]["line"] == "kubectl delete meshpolicy draft -n shop"


def test_a_long_list_is_cut_and_says_so(page: Served) -> None:
    many = tuple(msgspec.structs.replace(DRAFT.denied[1], port=number) for number in range(300))
    view: DraftView = msgspec.structs.replace(DRAFT, denied=many)
    page.ca.answers["GET /v1/namespaces/shop/draft"] = view
    draft = get(page, "draft?namespace=shop")
    assert (len(draft["denied"]), draft["is_truncated"]) == (200, True)
