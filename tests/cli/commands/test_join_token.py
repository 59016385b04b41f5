"""Join tokens are listed and revoked by ID; what isn't a verb is a workload, as in release 0.1."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.main import run
from cli.text.exit_codes import ExitCode
from shared.model.wire.admin import ErrorAnswer, JoinTokenCreated, JoinTokenList, JoinTokenView
from tests.cli.fake_ca import FakeCA

TOKEN = JoinTokenView(
    token_id="t1",
    workload="shop/web",
    addresses=("198.18.0.2",),
    state="spent",
    created=1.79e9,
    expires=1.79e9,
    instance="web-1",
)
CREATED = JoinTokenCreated(
    token="touchmark1.secret", token_id="t1", workload="shop/web", addresses=(), ca="c:1", expires=9.0
)


@pytest.mark.parametrize("verb", [[], ["create"]], ids=["left out", "named"])
def test_a_token_is_created_with_or_without_the_verb(ca: FakeCA, verb: list[str]) -> None:
    ca.answers["POST /v1/join-tokens"] = CREATED
    assert run(["ca", "join-token", *verb, "shop/web", "--ttl", "10m"]) == ExitCode.SUCCESS
    assert run(["ca", "join-token", *verb, "--ttl", "10m", "shop/web"]) == ExitCode.SUCCESS
    assert [body["workload"] for body in ca.asked("POST /v1/join-tokens")] == ["shop/web"] * 2


def test_without_a_place_for_it_no_token_is_created(ca: FakeCA, tmp_path: Path) -> None:
    """Nobody would have it, and it would stay open."""
    ca.answers["POST /v1/join-tokens"] = CREATED
    taken = tmp_path / "web.token"
    taken.write_text("another one", encoding="ascii")
    for output in (taken, tmp_path / "none" / "web.token"):
        assert run(["ca", "join-token", "shop/web", "--output", str(output)]) == ExitCode.BAD_INPUT
    assert ca.asked("POST /v1/join-tokens") == []
    assert taken.read_text(encoding="ascii") == "another one"
    assert run(["ca", "join-token", "shop/web", "--output", str(tmp_path / "free")]) == ExitCode.SUCCESS
    assert (tmp_path / "free").read_text(encoding="ascii") == "touchmark1.secret\n"


def test_tokens_are_listed(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    ca.answers["GET /v1/join-tokens"] = JoinTokenList(tokens=(TOKEN,))
    assert run(["ca", "join-token", "list"]) == ExitCode.SUCCESS
    assert "web-1" in capsys.readouterr().out
    assert run(["ca", "join-token", "list", "--json"]) == ExitCode.SUCCESS
    assert json.loads(capsys.readouterr().out)[0]["token_id"] == "t1"


def test_a_token_is_revoked_by_its_id(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    ca.answers["DELETE /v1/join-tokens/t1"] = JoinTokenList(tokens=())
    assert run(["ca", "join-token", "revoke", "t1"]) == ExitCode.SUCCESS
    assert "no join tokens" in capsys.readouterr().out
    ca.answers["DELETE /v1/join-tokens/t1"] = ErrorAnswer(code="conflict", message="it was spent")
    assert run(["ca", "join-token", "revoke", "t1"]) == ExitCode.CONFLICT
