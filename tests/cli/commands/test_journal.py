"""The journal: what happened to the authorities, oldest first."""

from __future__ import annotations

import json

import pytest

from cli.main import run
from cli.text.exit_codes import ExitCode
from cli.text.output import name_authority
from shared.model.wire.admin import JournalList, JournalView
from tests.cli.fake_ca import FakeCA
from tests.cli.observations import OBSERVATION

AUTHORITY = OBSERVATION.ca.authorities[0]
ENTRIES = (
    JournalView(time=172_800.0, event="active", authority_id=AUTHORITY.authority_id, detail="without web-1"),
    JournalView(time=86_400.0, event="founded", authority_id="gone"),
)


def test_it_is_shown_in_the_order_of_time(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    ca.answers["GET /v1/status"] = OBSERVATION.ca
    ca.answers["GET /v1/journal"] = JournalList(entries=ENTRIES)
    assert run(["ca", "journal", "--since", "1970-01-02"]) == ExitCode.SUCCESS
    header, first, second = capsys.readouterr().out.splitlines()[:3]
    assert header.split() == ["TIME", "EVENT", "AUTHORITY", "DETAIL"]
    assert first.startswith("1970-01-02") and "founded" in first and "gone" in first
    assert "active" in second and name_authority(AUTHORITY.subject) in second and "without web-1" in second
    assert {"since": "86400.0", "limit": "100"} in [query for _, query, _ in ca.requests]
    assert run(["ca", "journal", "--json"]) == ExitCode.SUCCESS
    assert [one["event"] for one in json.loads(capsys.readouterr().out)] == ["founded", "active"]
