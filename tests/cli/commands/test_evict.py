"""Evicting: after a question, a sidecar or a workload, and what lets it back in is said."""

from __future__ import annotations

import json

import pytest

from cli.main import run
from cli.text.exit_codes import ExitCode
from shared.model.wire.admin import ErrorAnswer, Evicted
from tests.cli.fake_ca import FakeCA

DONE = Evicted(instances=("web-1", "web-2"), certificates=3, ends=1.79e9, tokens=("t1",), bundle_sequence=4)


def test_what_was_evicted_is_told(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    ca.answers["POST /v1/evictions"] = DONE
    assert run(["ca", "evict", "shop/web", "--yes"]) == ExitCode.SUCCESS
    shown = capsys.readouterr()
    assert "web-1, web-2" in shown.out and "3 certificates" in shown.out and "t1" in shown.out
    assert "join token" in shown.err
    assert ca.asked("POST /v1/evictions") == [{"whom": "shop/web"}]
    assert run(["ca", "evict", "shop/web", "--yes", "--json"]) == ExitCode.SUCCESS
    assert json.loads(capsys.readouterr().out)["instances"] == ["web-1", "web-2"]


def test_without_a_confirmation_nothing_is_asked_of_the_ca(ca: FakeCA) -> None:
    assert run(["ca", "evict", "web-1"]) == ExitCode.REFUSED
    assert run(["ca", "evict", "web-1", "--json"]) == ExitCode.REFUSED
    assert ca.requests == []


def test_an_unknown_sidecar_is_not_found(ca: FakeCA) -> None:
    ca.answers["POST /v1/evictions"] = ErrorAnswer(code="not_found", message="no sidecar has joined as x")
    assert run(["ca", "evict", "x", "--yes"]) == ExitCode.NOT_FOUND
