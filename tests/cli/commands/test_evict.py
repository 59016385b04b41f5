"""Evicting: after a question, a sidecar or a workload, and what lets it back in is said."""

from __future__ import annotations

import json

import msgspec
import pytest

from cli.main import run
from cli.text.exit_codes import ExitCode
from shared.model.wire.admin import ErrorAnswer, Evicted
from tests.cli.fake_ca import FakeCA

DONE = Evicted(instances=("web-1", "web-2"), certificates=3, ends=9e9, tokens=("t1",), bundle_sequence=4)


def test_what_was_evicted_is_told(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    ca.answers["POST /v1/evictions"] = DONE
    assert run(["ca", "evict", "shop/web", "--yes"]) == ExitCode.SUCCESS
    shown = capsys.readouterr()
    assert "web-1, web-2" in shown.out and "t1" in shown.out
    assert "3 certificates are distrusted until they end, the last at 2255" in shown.out
    assert "join token" in shown.err
    assert ca.asked("POST /v1/evictions") == [{"whom": "shop/web"}]
    assert run(["ca", "evict", "shop/web", "--yes", "--json"]) == ExitCode.SUCCESS
    assert json.loads(capsys.readouterr().out)["instances"] == ["web-1", "web-2"]


def test_certificates_that_have_all_ended_are_told_apart(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    ca.answers["POST /v1/evictions"] = msgspec.structs.replace(DONE, certificates=1, ends=1.0e9)
    assert run(["ca", "evict", "shop/web", "--yes"]) == ExitCode.SUCCESS
    shown = capsys.readouterr().out
    assert "no certificate was alive; 1 certificate, the last ended at 2001-09-09 01:46:40Z, is distrusted" in shown
    assert "until" not in shown


def test_a_name_that_the_restored_ledger_lacks_is_not_said_to_be_evicted(
    ca: FakeCA, capsys: pytest.CaptureFixture[str]
) -> None:
    unknown = Evicted(instances=("vm-1",), certificates=0, ends=0.0, tokens=(), bundle_sequence=4, is_unknown=True)
    ca.answers["POST /v1/evictions"] = unknown
    assert run(["ca", "evict", "vm-1", "--yes"]) == ExitCode.SUCCESS
    shown = capsys.readouterr().out
    assert "barred all the same: vm-1; no such sidecar is in the ledger" in shown
    assert "evicted" not in shown


def test_without_a_confirmation_nothing_is_asked_of_the_ca(ca: FakeCA) -> None:
    assert run(["ca", "evict", "web-1"]) == ExitCode.REFUSED
    assert run(["ca", "evict", "web-1", "--json"]) == ExitCode.REFUSED
    assert ca.requests == []


def test_an_unknown_sidecar_is_not_found(ca: FakeCA) -> None:
    ca.answers["POST /v1/evictions"] = ErrorAnswer(code="not_found", message="no sidecar has joined as x")
    assert run(["ca", "evict", "x", "--yes"]) == ExitCode.NOT_FOUND


def test_an_eviction_that_a_restore_has_undone_may_stay_undone(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    ca.answers["POST /v1/evictions"] = Evicted(instances=(), certificates=0, ends=0.0, tokens=(), bundle_sequence=4)
    assert run(["ca", "evict", "web-1", "--dismiss"]) == ExitCode.SUCCESS
    shown = capsys.readouterr().out
    assert "web-1 may stay" in shown and "evicted" not in shown
    assert run(["ca", "evict", "web-1", "--dismiss", "--json"]) == ExitCode.SUCCESS
    assert json.loads(capsys.readouterr().out)["instances"] == []
    assert ca.asked("POST /v1/evictions") == [{"whom": "web-1", "dismiss": True}] * 2
