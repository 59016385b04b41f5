"""Rotation: progress, laggards by name, the end."""

from __future__ import annotations

import msgspec
import pytest

from cli.exit_codes import ExitCode
from cli.main import run
from shared.model.admin import RotationStatus
from tests.cli.fake_ca import FakeCA

PREPARED = RotationStatus(
    step="prepared", issuer="A", next="B", sequence=4, waiting_for=("web-7 (shop/web)",), is_finished=False
)
ACTIVE = RotationStatus(step="active", issuer="B", previous="A", sequence=4, previous_alive=3, is_finished=False)


def test_it_ends_once_the_new_issuer_signs(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    ca.answers["POST /v1/rotation"] = PREPARED
    ca.answers["GET /v1/rotation"] = [PREPARED, ACTIVE]
    assert run(["ca", "rotate", "issuer", "--json"]) == ExitCode.SUCCESS
    assert msgspec.json.decode(capsys.readouterr().out)["issuer"] == "B"
    assert ca.asked("POST /v1/rotation") == [{"force": False}]


def test_laggards_are_named_and_end_with_9(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    ca.answers["POST /v1/rotation"] = PREPARED
    ca.answers["GET /v1/rotation"] = PREPARED
    assert run(["ca", "rotate", "issuer", "--timeout", "0.3"]) == ExitCode.DEADLINE
    assert "web-7 (shop/web)" in capsys.readouterr().err


def test_force_is_asked_for_explicitly(ca: FakeCA) -> None:
    ca.answers["POST /v1/rotation"] = ACTIVE
    assert run(["ca", "rotate", "issuer", "--force"]) == ExitCode.SUCCESS
    assert ca.asked("POST /v1/rotation") == [{"force": True}]


def test_authorities_are_written_by_their_common_names(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    ca.answers["POST /v1/rotation"] = msgspec.structs.replace(PREPARED, next="CN=issuer B,O=Touchmark")
    ca.answers["GET /v1/rotation"] = msgspec.structs.replace(ACTIVE, issuer="issuer B", previous="CN=A,O=Touchmark")
    assert run(["ca", "rotate", "issuer"]) == ExitCode.SUCCESS
    printed = capsys.readouterr()
    assert "issuer B signs\nA is trusted until" in printed.out
    assert "CN=" not in printed.out + printed.err
