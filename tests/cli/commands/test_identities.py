"""The ledger: what is alive, unless all is asked for."""

from __future__ import annotations

from cli.main import run
from cli.text.exit_codes import ExitCode
from shared.model.wire.admin import IdentityList
from tests.cli.fake_ca import FakeCA


def test_only_what_is_alive_is_asked_for_unless_all_is(ca: FakeCA) -> None:
    ca.answers["GET /v1/identities"] = IdentityList(identities=())
    assert run(["identities", "--workload", "shop/web"]) == ExitCode.SUCCESS
    assert run(["identities", "--all"]) == ExitCode.SUCCESS
    assert [query for _, query, _ in ca.requests] == [{"alive": "true", "workload": "shop/web"}, {}]
