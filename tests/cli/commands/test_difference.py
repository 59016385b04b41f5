"""What `policy diff` asks and prints (``cli.commands.difference``), and what its exit code says."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import pytest

from cli.commands import difference
from cli.main import run
from cli.text.exit_codes import ExitCode
from shared.model.policy.reasons import Reason
from shared.model.policy.rules import Direction
from shared.model.wire.admin import DecidedOtherwise, PolicyDifference
from tests.cli.backends.test_objects import POLICY
from tests.cli.fake_ca import FakeCA

ASKED = "POST /v1/policies/difference"
DENIED = DecidedOtherwise(
    before="allow",
    after="deny",
    side=Direction.INGRESS,
    reason=Reason.DENY_RULE,
    rule="shop/a",
    source="bank/teller",
    source_program=f"sha256:{'cd' * 32}",
    destination="shop/web",
    destination_program="",
    port=80,
    service="shop/web:80",
    path="",
    connections=7,
    last_seen=1.0,
)


def make_difference(*denied: DecidedOtherwise, unknown: int = 0) -> PolicyDifference:
    return PolicyDifference(namespaces=("shop",), since=0.0, denied=denied, allowed=(), unchanged=5, unknown=unknown)


def test_newly_denied_connections_end_with_3(ca: FakeCA, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ca.answers[ASKED] = make_difference(DENIED)
    file = tmp_path / "rules.yaml"
    file.write_text(POLICY)
    assert run(["policy", "diff", str(file), "--since", "1h"]) == ExitCode.CHECK_FAILED
    [asked] = ca.asked(ASKED)
    assert [each["namespace"] for each in (*asked["policies"], *asked["programs"])] == ["shop", "shop"]
    assert ca.requests[-1][1] == {"since_s": "3600.0"}
    printed = capsys.readouterr().out
    assert "✗ newly denied: 7 connections" in printed
    assert difference.describe(DENIED) in printed
    assert "shop/web, port 80, Service shop/web:80: allow → deny (deny_rule by shop/a), 7 connections" in printed


def test_standard_input_is_read_where_no_file_is_named_and_unknown_ends_with_10(
    ca: FakeCA, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ca.answers[ASKED] = make_difference()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(POLICY.encode())))
    assert run(["policy", "diff", "--json"]) == ExitCode.SUCCESS
    assert msgspec.json.decode(capsys.readouterr().out, type=PolicyDifference) == make_difference()
    ca.answers[ASKED] = make_difference(unknown=1)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(POLICY.encode())))
    assert run(["policy", "diff", "-"]) == ExitCode.UNKNOWN
    out = capsys.readouterr().out
    assert "unchanged: 5 connections; unknown: 1" in out
    difference.show_difference(msgspec.structs.replace(make_difference(), unchanged=1))
    assert "unchanged: 1 connection; unknown: 0" in capsys.readouterr().out
    assert "unknown: they failed before anything was decided" in out
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert run(["policy", "diff", "-"]) == ExitCode.BAD_INPUT
