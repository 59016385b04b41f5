"""``touchmark top``: rates between two looks, once where nobody watches."""

from __future__ import annotations

import json
import sys

import msgspec
import pytest

from cli.commands.top import rank
from cli.main import run
from cli.text.duration import format_time
from cli.text.exit_codes import ExitCode
from shared.model.wire.admin import ErrorAnswer
from tests.cli.edges import DB, DENY, WEB, list_edges, make_edge
from tests.cli.fake_ca import FakeCA

EDGES = "GET /v1/namespaces/shop/edges"


def test_a_rate_is_what_came_since_the_look_before_and_the_busiest_is_first() -> None:
    before = list_edges(make_edge(connections=5), make_edge(DB, WEB, connections=50))
    now = list_edges(make_edge(connections=9), make_edge(DB, WEB, connections=50), make_edge(DB, DB, connections=1))
    ranked = [(each.source, each.destination, each.per_second) for each in rank(now, before, elapsed_s=2.0)]
    assert ranked == [("shop/web", "shop/db", 2.0), ("shop/db", "shop/db", 0.5), ("shop/db", "shop/web", 0.0)]


def test_the_first_look_and_one_of_another_hour_have_no_rates() -> None:
    answer = list_edges(make_edge(connections=5))
    later = msgspec.structs.replace(answer, since=answer.since + 3600)
    for before in (None, answer):
        assert [each.per_second for each in rank(later, before, elapsed_s=2.0)] == [None]


def test_without_a_terminal_it_looks_once(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    ca.answers[EDGES] = list_edges(make_edge(WEB, DB, DENY))
    assert run(["top", "shop"]) == ExitCode.SUCCESS
    printed = capsys.readouterr().out
    assert "DENY" in printed
    assert f"SINCE {format_time(list_edges().since)}" in printed
    assert "\x1b" not in printed
    assert len(ca.requests) == 1


def test_json_is_one_look(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    ca.answers[EDGES] = list_edges(make_edge(connections=7))
    assert run(["top", "shop", "--json"]) == ExitCode.SUCCESS
    [link] = json.loads(capsys.readouterr().out)
    assert (link["source"], link["connections"], link["per_second"]) == ("shop/web", 7, None)
    ca.answers[EDGES] = list_edges()
    assert run(["top", "shop", "--once"]) == ExitCode.SUCCESS
    assert "nothing was seen" in capsys.readouterr().out


def test_on_a_terminal_it_looks_again_until_it_cant(
    ca: FakeCA, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = ErrorAnswer(code="unavailable", message="gone")
    ca.answers[EDGES] = [list_edges(make_edge(connections=1)), list_edges(make_edge(connections=2)), gone]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert run(["top", "shop", "--interval", "1"]) == ExitCode.UNAVAILABLE
    assert capsys.readouterr().out.count("\x1b[H\x1b[2J") == 2
    assert len(ca.requests) == 3
