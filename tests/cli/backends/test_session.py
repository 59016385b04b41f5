"""A verb's work gets its client and returns its result."""

from __future__ import annotations

from cli.backends.session import ask_admin
from cli.backends.target import Target
from shared.model.wire.admin import ProgramList
from tests.cli.fake_ca import FakeCA


def test_it_returns_what_was_said(ca: FakeCA) -> None:
    ca.answers["GET /v1/programs"] = ProgramList(programs=())
    answer = ask_admin(Target(admin_socket=ca.socket), lambda client: client.list_programs("shop"))
    assert answer == ProgramList(programs=())
    assert ca.requests[0][1] == {"namespace": "shop"}
