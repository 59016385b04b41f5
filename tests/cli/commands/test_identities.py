"""The ledger: what is alive unless something else is asked for, and what a search asks the CA."""

from __future__ import annotations

import pytest

from cli.main import run
from cli.text.exit_codes import ExitCode
from cli.text.output import name_authority
from shared.model.wire.admin import IdentityList
from tests.cli.fake_ca import FakeCA
from tests.cli.observations import OBSERVATION

DIGEST = "ab" * 32


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ("", {"alive": "true"}),
        ("--workload shop/web", {"alive": "true", "workload": "shop/web"}),
        ("--all", {}),
        ("--serial AB12", {"serial": "ab12"}),
        ("--serial ab12 --alive", {"serial": "ab12", "alive": "true"}),
        (f"--digest sha256:{DIGEST} --sidecar web-1", {"alive": "true", "digest": DIGEST, "sidecar": "web-1"}),
        ("--since 1970-01-02 --until 1970-01-02T00:00:30", {"since": "86400.0", "until": "86430.0"}),
        ("--all --limit 5", {"limit": "5"}),
    ],
    ids=str,
)
def test_a_search_asks_for_what_its_options_say(ca: FakeCA, options: str, asked: dict[str, str]) -> None:
    ca.answers["GET /v1/identities"] = IdentityList(identities=())
    assert run(["identities", *options.split()]) == ExitCode.SUCCESS
    assert [query for path, query, _ in ca.requests if path == "GET /v1/identities"] == [asked]


def test_an_authority_is_named_by_its_id_or_its_name(ca: FakeCA) -> None:
    ca.answers["GET /v1/status"] = OBSERVATION.ca
    ca.answers["GET /v1/identities"] = IdentityList(identities=())
    authority = OBSERVATION.ca.authorities[0]
    name = name_authority(authority.subject)
    for named in (authority.authority_id, name):
        assert run(["identities", "--authority", named]) == ExitCode.SUCCESS
    queries = [query for key, query, _ in ca.requests if key == "GET /v1/identities"]
    assert queries == [{"alive": "true", "authority": authority.authority_id}] * 2
    assert run(["identities", "--authority", "another"]) == ExitCode.NOT_FOUND


@pytest.mark.parametrize("wrong", [["--digest", "ab"], ["--since", "yesterday"]])
def test_what_cant_be_searched_for_is_bad_input(ca: FakeCA, wrong: list[str]) -> None:
    assert run(["identities", *wrong]) != ExitCode.SUCCESS
    assert ca.requests == []
