"""The page in Debian's Chromium: nothing against its policy, usable by keyboard and screen reader, at any size."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import msgspec
import pytest
import pytest_asyncio

from cli.commands.ui import written_opening
from shared.model.policy.rules import Mode, NamespaceState
from shared.model.wire.admin import DecisionList, ErrorAnswer, ProgramView
from tests.cli.ui.browser import Tab, find_chromium, running_browser
from tests.cli.ui.conftest import TOKEN, Served
from tests.cli.ui.world import DRAFT, READY, fill, make_many

pytestmark = pytest.mark.asyncio(loop_scope="module")

EDGE = "/ns/shop/edge?from=shop%2Fcron&to=shop%2Fdb&port=5432"
# Each view, and what is there once it is complete.
VIEWS = {
    "/": "document.querySelectorAll('.mark').length === 2",
    "/ns/shop": "document.querySelector('.picture') && document.querySelectorAll('tbody tr').length === 4",
    "/ns/shop?rules=draft": (
        "document.querySelectorAll('.draft .causes > li').length === 3"
        " && document.querySelectorAll('.link.broken').length === 2"
    ),
    "/ns/shop?view=ready": "document.querySelectorAll('.causes > li').length === 4",
    "/ns/shop?view=coverage": "document.querySelector('td ul')",
    "/ns/shop?view=time": "document.querySelectorAll('.bars').length === 3 && document.querySelector('tbody')",
    "/ns/shop?view=live": "document.querySelector('tbody a')",
    EDGE: "document.querySelector('.decisions')",
    "/sidecars": "document.querySelector('tbody')",
    "/ca": "document.querySelector('tbody')",
    "/audit": "document.querySelector('tbody')",
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Tab]:
    if find_chromium() is None:
        pytest.skip("needs Chromium (Debian: apt install chromium)")
    async with running_browser(tmp_path_factory.mktemp("browser")) as tab:
        yield tab


@pytest_asyncio.fixture(loop_scope="module")
async def tab(browser: Tab, page: Served) -> AsyncIterator[Tab]:
    """The page at its beginning, wide and light; afterwards nothing was reported against its policy."""
    browser.reports.clear()
    browser.faults.clear()
    await browser.show_as(width=1280, height=900, scheme="light")
    await browser.open(f"{page.url}#token={TOKEN}", VIEWS["/"])
    yield browser
    assert browser.reports == []
    assert browser.faults == []


async def go(tab: Tab, view: str, wanted: str = "") -> None:
    """Change the fragment; the view before, which may have what is wanted as well, is gone when this waits."""
    await tab.run(
        f"new Promise((done) => {{ if (location.hash === '#{view}') return done();"
        f" addEventListener('hashchange', () => setTimeout(done), {{once: true}}); location.hash = '#{view}'; }})"
    )
    await tab.wait_for(wanted or VIEWS[view])


async def press_until(tab: Tab, key: str, wanted: str) -> None:
    """Press a key until the focus is where it is wanted."""
    for _ in range(80):
        if await tab.run(f"Boolean(document.activeElement.matches({wanted!r}))"):
            return
        await tab.press(key)
    pytest.fail(f"{key} never came to {wanted}")


async def test_the_token_leaves_the_url_and_survives_a_reload(tab: Tab) -> None:
    assert await tab.run("location.hash") == "#/"
    await tab.call("Page.reload")
    await tab.wait_for(f"performance.getEntriesByType('navigation')[0].type === 'reload' && ({VIEWS['/']})")
    assert await tab.run("document.cookie") == ""


async def test_the_file_that_the_browser_is_given_leads_to_the_page(tab: Tab, page: Served) -> None:
    with written_opening(f"{page.url}#token={TOKEN}") as file:
        await tab.open(file.as_uri(), VIEWS["/"])
    assert await tab.run("location.hash") == "#/"
    await tab.call("Page.reload")
    await tab.wait_for(f"performance.getEntriesByType('navigation')[0].type === 'reload' && ({VIEWS['/']})")


async def test_what_is_against_the_policy_is_reported(tab: Tab) -> None:
    """The other tests' silence means something."""
    await tab.run("document.body.setAttribute('style', 'color: red')")
    async with asyncio.timeout(60):
        while not tab.reports:
            await asyncio.sleep(0.02)
    tab.reports.clear()
    tab.faults.clear()
    with pytest.raises(AssertionError, match="TrustedHTML"):
        await tab.run("document.body.innerHTML = '<p>markup'")
    tab.reports.clear()
    tab.faults.clear()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_nothing_is_in_the_way_of_a_screen_reader(tab: Tab, scheme: str) -> None:
    await tab.show_as(width=1280, height=900, scheme=scheme)
    for view in (
        "/",
        "/ns/shop",
        "/ns/shop?rules=draft",
        "/ns/shop?view=ready",
        "/ns/shop?view=time",
        "/ns/shop?view=live",
        EDGE,
    ):
        await go(tab, view)
        assert await tab.check_access() == [], view


async def test_the_whole_path_by_keyboard(tab: Tab) -> None:
    """From the list of namespaces to the command that fixes a refusal, and back."""
    await press_until(tab, "Tab", "tbody tr:nth-child(2) td:first-child a")
    await tab.press("Enter")
    await tab.wait_for(VIEWS["/ns/shop"])
    await tab.wait_for("document.activeElement.tagName === 'H1'")
    await tab.wait_for("document.querySelector('[role=status]').textContent === '4 links shown, 1 refused'")
    await press_until(tab, "Tab", "[data-box]")
    await tab.press("End")
    first = await tab.run("document.activeElement.getAttribute('aria-label')")
    await tab.press("Home")
    assert await tab.run("document.activeElement.getAttribute('aria-label')") != first
    await tab.press("ArrowRight")
    await tab.press("Enter")
    await tab.wait_for("location.hash.includes('node=') && document.querySelector('.chip')")
    await tab.wait_for("document.activeElement.matches('[data-box][aria-pressed=true]')")
    await tab.press("Escape")
    await tab.wait_for(f"!location.hash.includes('node=') && ({VIEWS['/ns/shop']})")
    await press_until(tab, "Tab", "tbody tr:first-child a")
    await tab.press("Enter")
    await tab.wait_for(VIEWS[EDGE])
    await press_until(tab, "Tab", ".fix button")
    await tab.press("Enter")
    await tab.wait_for("/^Copied|selected$/.test(document.querySelector('[role=status]').textContent)")


QUEUE = "document.querySelectorAll('.queue > li').length === 3 && document.querySelector('.buttons button')"


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_program_is_refused_by_keyboard_after_its_command_was_shown(
    tab: Tab, page: Served, scheme: str
) -> None:
    await tab.show_as(width=1280, height=900, scheme=scheme)
    await go(tab, "/ns/shop?view=queue", QUEUE)
    assert await tab.check_access() == []
    await press_until(tab, "Tab", ".queue li:first-child .buttons button:nth-of-type(2)")
    await tab.press("Enter")
    await tab.wait_for("document.querySelector('dialog[open] pre')")
    assert "touchmark program refuse shop/web sha256:1a1a" in await tab.run(
        "document.querySelector('dialog pre').textContent"
    )
    assert await tab.check_access() == []
    await tab.press("Escape")
    await tab.wait_for("!document.querySelector('dialog') && document.activeElement.matches('.buttons button')")
    assert not page.ca.asked("POST /v1/namespaces/shop/refusals")
    await tab.press("Enter")
    await press_until(tab, "Tab", "dialog .buttons button:first-child")
    await tab.press("Enter")
    await tab.wait_for("document.querySelector('[role=status]').textContent === 'refused for shop/web'")
    assert len(page.ca.asked("POST /v1/namespaces/shop/refusals")) == 1


async def test_a_weak_approval_waits_for_a_tick_and_who_may_not_sees_no_button(
    tab: Tab, page: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    await go(tab, "/ns/shop?view=queue", QUEUE)
    await tab.run("document.querySelector('.queue li:nth-child(2) .buttons button').click()")
    await tab.wait_for("document.querySelector('dialog[open] input')")
    assert await tab.run("document.querySelector('dialog .buttons button').disabled") is True
    assert "any Python program" in await tab.run("document.querySelector('dialog .check').textContent")
    await tab.press("Escape")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    await go(tab, "/ns/bank?view=ready", "document.querySelector('.lead')")
    await go(
        tab,
        "/ns/shop?view=queue",
        "document.querySelectorAll('.queue > li').length === 3 && !document.querySelector('.buttons button')",
    )


async def test_a_missing_rule_is_written_by_keyboard_after_its_command_was_shown(tab: Tab, page: Served) -> None:
    page.ca.answers["PUT /v1/policies"] = page.ca.answers["GET /v1/policies"].policies[0]
    await go(tab, "/ns/shop?view=ready", "document.querySelector('.causes .buttons button')")
    await press_until(tab, "Tab", ".causes .buttons button")
    await tab.press("Enter")
    await tab.wait_for("document.querySelector('dialog[open] pre')")
    assert "touchmark policy apply -f -" in await tab.run("document.querySelector('dialog pre').textContent")
    assert await tab.check_access() == []
    await press_until(tab, "Tab", "dialog .buttons button:first-child")
    await tab.press("Enter")
    await tab.wait_for("/ is written into shop$/.test(document.querySelector('[role=status]').textContent)")
    assert len(page.ca.asked("PUT /v1/policies")) == 1


async def test_a_namespace_is_adopted_by_keyboard_alone(tab: Tab, page: Served) -> None:
    """From the list of namespaces by an approval and a missing rule to explicit mode."""
    answers = page.ca.answers
    answers["POST /v1/programs"] = ProgramView(
        namespace="shop", name="web-1", service_account="web", programs=(), weak=False, approved_by="me", approved=1.0
    )
    answers["PUT /v1/policies"] = answers["GET /v1/policies"].policies[0]
    answers["PUT /v1/namespaces/shop/mode"] = NamespaceState(namespace="shop", version=9, mode=Mode.EXPLICIT)

    async def follow(link: str, wanted: str) -> None:
        await press_until(tab, "Tab", link)
        await tab.press("Enter")
        await tab.wait_for(wanted)

    async def confirm(button: str, said: str) -> None:
        await follow(button, "document.querySelector('dialog[open] pre')")
        await follow(
            "dialog .buttons button:first-child", f"{said}.test(document.querySelector('[role=status]').textContent)"
        )

    await follow("tbody tr:nth-child(2) td:first-child a", VIEWS["/ns/shop"])
    await follow(".views a:nth-of-type(4)", QUEUE)
    await confirm(".queue li:first-child .buttons button:first-of-type", "/^approved for shop.web$/")
    # The queue, which is shown until then, is a list of causes, too.
    await follow(".views a:nth-of-type(2)", "document.querySelector('.causes:not(.queue) .buttons button')")
    assert "BLOCKED" in await tab.text()
    await confirm(".causes .buttons button", "/ is written into shop$/")
    answers["GET /v1/namespaces/shop/readiness"] = msgspec.structs.replace(
        READY, namespace="shop", mode=Mode.PERMISSIVE, version=8
    )
    await follow("header button", "document.querySelector('main .lead').innerText.includes('READY')")
    await confirm("main .buttons button", "/^shop is set to explicit$/")
    assert page.ca.asked("PUT /v1/namespaces/shop/mode") == [{"mode": "explicit", "expected_version": 8}]


async def test_a_draft_is_compared_and_put_in_force_by_keyboard(tab: Tab, page: Served) -> None:
    page.ca.answers["GET /v1/namespaces/shop/draft"] = msgspec.structs.replace(
        DRAFT, draft=msgspec.structs.replace(DRAFT.draft, mode=None)
    )
    await go(tab, "/ns/shop")
    await press_until(tab, "Tab", "input[name=rules]")
    await tab.press("ArrowRight")
    await tab.wait_for(f"location.hash === '#/ns/shop?rules=draft' && ({VIEWS['/ns/shop?rules=draft']})")
    said = "'Draft 7 would newly refuse or mark 10,021 connections, as far as is known'"
    await tab.wait_for(f"document.querySelector('[role=status]').textContent === {said}")
    labels = await tab.run("[...document.querySelectorAll('.label text')].map((each) => each.textContent).join('|')")
    assert labels.count("newly denied") == 2, "in words"
    assert await tab.run("document.querySelectorAll('.picture .label.deny .cross').length") == 3, "by shape"
    assert "⊘ newly denied" in await tab.run("document.querySelector('tbody tr').innerText")
    await press_until(tab, "Tab", ".draft > .buttons button:first-child")
    await tab.press("Enter")
    await tab.wait_for("document.querySelector('dialog[open] pre')")
    assert "touchmark policy draft shop --promote" in await tab.run("document.querySelector('dialog pre').textContent")
    assert await tab.check_access() == []
    await press_until(tab, "Tab", "dialog .buttons button:first-child")
    await tab.press("Enter")
    await tab.wait_for("document.querySelector('[role=status]').textContent === 'the draft of shop is in force'")
    assert page.ca.asked("POST /v1/namespaces/shop/draft/promote") == [{"number": 7}]


async def test_a_draft_without_a_verdict_isnt_said_to_refuse_nothing(tab: Tab, page: Served) -> None:
    page.ca.answers["GET /v1/namespaces/shop/draft"] = msgspec.structs.replace(
        DRAFT, denied=(), allowed=(), evaluated_since=None, is_partly_unknown=True
    )
    said = "document.querySelector('[role=status]').textContent === 'Draft 7: no verdict of it has come yet'"
    await go(tab, "/ns/shop?rules=draft", said)
    shown = await tab.run("document.querySelector('.draft').innerText")
    assert "? No verdict of it has come yet" in shown
    assert "some connections have no verdict" in shown


async def test_a_draft_that_ends_explicit_mode_says_so_before_it_is_put_in_force(tab: Tab, page: Served) -> None:
    page.ca.answers["GET /v1/namespaces/shop/draft"] = msgspec.structs.replace(
        DRAFT, draft=msgspec.structs.replace(DRAFT.draft, mode=Mode.PERMISSIVE)
    )
    await go(tab, "/ns/shop?rules=draft", "document.querySelector('.draft > .buttons button')")
    await tab.run("document.querySelector('.draft > .buttons button').click()")
    await tab.wait_for("document.querySelector('dialog[open] pre')")
    assert "is permissive from then on" in await tab.run("document.querySelector('dialog').innerText")
    await tab.press("Escape")
    await tab.wait_for("!document.querySelector('dialog')")


async def test_what_a_draft_has_settled_is_shown_and_an_objects_draft_has_no_button_to_drop_it(
    tab: Tab, page: Served
) -> None:
    """The CA would refuse it: the object alone changes it."""
    page.ca.answers["GET /v1/namespaces/shop/draft"] = msgspec.structs.replace(
        DRAFT, settled=(msgspec.structs.replace(DRAFT.denied[0], fixes=()),), is_object=True
    )
    await go(tab, "/ns/shop?rules=draft", "document.querySelectorAll('.draft .causes > li').length === 4")
    shown = await tab.run("document.querySelector('.draft').innerText")
    assert "Newly refused before, and allowed by now" in shown and "✓ allowed by now" in shown
    assert "kubectl delete meshpolicy draft -n shop" in shown
    buttons = await tab.run("[...document.querySelectorAll('.draft > .buttons button')].map((each) => each.innerText)")
    assert [each.partition("…")[0] for each in buttons] == ["Put it in force"]
    assert await tab.check_access() == []


async def test_a_namespace_without_a_draft_says_how_to_write_one(tab: Tab, page: Served) -> None:
    del page.ca.answers["GET /v1/namespaces/shop/draft"]
    await go(tab, "/ns/shop?rules=draft", "document.querySelector('.fix pre')")
    assert "touchmark policy apply -f FILE --draft" in await tab.run("document.querySelector('.fix pre').textContent")
    assert await tab.check_access() == []


async def test_live_decisions_are_asked_for_until_it_is_paused(tab: Tab, page: Served) -> None:
    await go(tab, "/ns/shop?view=live")
    changed = page.ca.answers["GET /v1/decisions"].decisions[0]
    page.ca.answers["GET /v1/decisions"] = DecisionList(decisions=(msgspec.structs.replace(changed, id=4712), changed))
    await tab.wait_for("document.querySelectorAll('tbody tr').length === 2")
    await tab.run("document.querySelector('.controls button').click()")
    await tab.wait_for("document.querySelector('[role=status]').textContent === 'Paused'")


async def test_what_a_peer_calls_itself_is_text(tab: Tab) -> None:
    await tab.run("window.alert = () => { document.title = 'attacked'; }")
    for view in ("/ns/shop", "/ns/shop?view=ready", "/ns/shop?view=live", EDGE, "/audit"):
        await go(tab, view)
        assert not await tab.run("document.querySelector('main img, main script')")
    assert "<img src=x onerror=alert(1)>\\x1b[31m\\u202e</script>" in await tab.text()
    assert await tab.run("document.title") != "attacked"


async def test_the_url_holds_the_whole_state(tab: Tab) -> None:
    await go(tab, "/ns/shop")
    await tab.run(
        "{ const show = document.querySelector('select[name=show]'); show.value = 'all';"
        " show.dispatchEvent(new Event('change', {bubbles: true})); }"
    )
    await tab.wait_for("document.querySelectorAll('tbody tr').length === 7")
    await tab.run("document.querySelector('input[name=hubs]').click()")
    await tab.wait_for("location.hash === '#/ns/shop?show=all&hubs=hide'")
    await tab.run("history.back()")
    await tab.wait_for("location.hash === '#/ns/shop?show=all'")
    assert not await tab.run("document.querySelector('input[name=hubs]').checked")


@pytest.mark.parametrize(("width", "height"), [(320, 640), (3840, 2160)])
async def test_nothing_leaves_the_screen(tab: Tab, width: int, height: int) -> None:
    await tab.show_as(width=width, height=height, scheme="dark")
    for view in VIEWS:
        await go(tab, view)
        assert await tab.run("document.documentElement.scrollWidth") <= width, view


async def test_three_hundred_ends_and_three_thousand_links_can_be_used(tab: Tab, page: Served) -> None:
    fill(page.ca, *make_many())
    await go(tab, "/ns/shop?show=all", "document.querySelectorAll('[data-box]').length === 300")
    assert await tab.run("document.querySelectorAll('.picture .link').length") == 3000
    assert await tab.run("document.querySelectorAll('.picture .deny .mark').length") == 1000, "not by colour alone"
    assert await tab.run("document.querySelector('.pages span').textContent") == "Page 1 of 30 (3000 rows)"
    await tab.run("document.querySelector('[data-box][tabindex=\"0\"]').focus()")
    await tab.press("ArrowDown")
    await tab.wait_for("document.activeElement === document.querySelector('[data-box][tabindex=\"0\"]')")
    await tab.press("Enter")
    await tab.wait_for("document.querySelector('.chip') && document.querySelectorAll('[data-box]').length < 300")
    assert await tab.run("document.querySelectorAll('.picture .link .hit').length") > 0, "a box's own can be pointed at"


async def test_no_link_passes_behind_a_box(tab: Tab) -> None:
    """It would seem to end there."""
    await go(tab, "/ns/shop?show=all", "document.querySelectorAll('.picture .link').length === 7")
    hidden = await tab.run(
        "(() => { const boxes = [...document.querySelectorAll('[data-box] rect')].map((each) => each.getBBox());"
        " return [...document.querySelectorAll('.picture .line')].filter((line) =>"
        "  Array.from({length: 101}, (_, part) => line.getPointAtLength(line.getTotalLength() * part / 100))"
        "  .some((at) => boxes.some((box) => at.x > box.x + 1 && at.x < box.x + box.width - 1"
        "   && at.y > box.y + 1 && at.y < box.y + box.height - 1))).length; })()"
    )
    assert hidden == 0


async def test_who_may_see_one_namespace_only_names_it(tab: Tab, page: Served) -> None:
    page.ca.answers["GET /v1/namespaces"] = ErrorAnswer(code="not_allowed", message="only some namespaces")
    await tab.call("Page.reload")
    await tab.wait_for("document.querySelector('form input')")
    assert "only some namespaces" in await tab.text()
    await tab.run("document.querySelector('form input').focus()")
    await tab.call("Input.insertText", text="shop")
    await tab.press("Enter")
    await tab.wait_for(f"location.hash === '#/ns/shop' && ({VIEWS['/ns/shop']})")
    browser_says = [fault for fault in tab.faults if "403" not in fault]
    tab.faults.clear()
    assert browser_says == []
