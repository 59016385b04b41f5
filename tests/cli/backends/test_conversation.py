"""A conversation opens and closes its client."""

from __future__ import annotations

from cli.backends.conversation import talk
from cli.backends.target import Where
from shared.model.wire.admin import ProgramList
from tests.cli.fake_ca import FakeCA


def test_it_returns_what_was_said(ca: FakeCA) -> None:
    ca.answers["GET /v1/programs"] = ProgramList(programs=())
    assert talk(Where(admin_socket=ca.socket), lambda client: client.list_programs("shop")) == ProgramList(programs=())
    assert ca.requests[0][1] == {"namespace": "shop"}
