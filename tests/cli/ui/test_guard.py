"""Who may ask the page's server: by the session's token and this machine's name alone."""

from __future__ import annotations

import pytest

from cli.ui.guard import HEADERS, POLICY, TOKEN_HEADER, check_change, check_origin, check_token
from shared.model.errors import RefusedError


@pytest.mark.parametrize("host", ["127.0.0.1:8123", "localhost:8123", "LOCALHOST", "[::1]:8123", "[::1]", "127.0.0.1"])
def test_this_machines_names_are_taken_with_any_port(host: str) -> None:
    check_origin({"Host": host})
    check_origin({"Host": host, "Sec-Fetch-Site": "same-origin", "Origin": f"http://{host}"})
    check_origin({"Host": host, "Sec-Fetch-Site": "none"})


@pytest.mark.parametrize("host", ["", "evil.example", "evil.example:8123", "127.0.0.1.evil.example", "[::2]:1", "::1"])
def test_a_name_that_was_rebound_is_refused(host: str) -> None:
    with pytest.raises(RefusedError, match="isn't"):
        check_origin({"Host": host})


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9"},
    ],
    ids=str,
)
def test_another_pages_request_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(RefusedError, match="another"):
        check_origin({"Host": "127.0.0.1:8123", **headers})


OPENING = {
    "Host": "127.0.0.1:8123",
    "Sec-Fetch-Site": "cross-site",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Dest": "document",
}


def test_a_tab_may_be_led_to_the_page_from_anywhere_and_to_nothing_else() -> None:
    check_origin(OPENING, is_page=True)
    with pytest.raises(RefusedError, match="another page"):
        check_origin(OPENING)
    for other in ({"Sec-Fetch-Mode": "no-cors"}, {"Sec-Fetch-Dest": "iframe"}, {"Origin": "null"}, {"Host": "evil"}):
        with pytest.raises(RefusedError):
            check_origin(OPENING | other, is_page=True)


@pytest.mark.parametrize("given", [{}, {TOKEN_HEADER: ""}, {TOKEN_HEADER: "tokem"}, {TOKEN_HEADER: "tök\udcff"}])
def test_only_the_sessions_token_is_taken(given: dict[str, str]) -> None:
    check_token({TOKEN_HEADER: "token"}, "token")
    with pytest.raises(RefusedError):
        check_token(given, "token")


def test_the_policy_lets_nothing_in_but_the_servers_own_files() -> None:
    directives = dict(part.split(" ", 1) for part in POLICY.split("; "))
    assert directives["default-src"] == "'none'"
    assert {value for name, value in directives.items() if name.endswith("-src")} == {"'none'", "'self'"}
    assert directives["frame-ancestors"] == directives["base-uri"] == directives["form-action"] == "'none'"
    assert directives["trusted-types"] == "'none'", "no text becomes markup"
    assert HEADERS["X-Content-Type-Options"] == "nosniff"
    assert HEADERS["Referrer-Policy"] == "no-referrer"
    assert "Set-Cookie" not in HEADERS


OWN = {"Host": "127.0.0.1:8123", "Origin": "http://127.0.0.1:8123", "Content-Type": "application/json"}


@pytest.mark.parametrize(
    "changed",
    [
        {"Origin": ""},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9000"},
        {"Origin": "http://localhost:8123"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": ""},
    ],
    ids=str,
)
def test_a_change_names_this_origin_and_is_json(changed: dict[str, str]) -> None:
    """What a form, another port of this machine, or a page that hides its origin can send is no change."""
    check_change(OWN)
    check_change({**OWN, "Sec-Fetch-Site": "same-origin", "Content-Type": "application/json; charset=utf-8"})
    with pytest.raises(RefusedError):
        check_change({**OWN, **changed})
