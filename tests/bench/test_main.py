"""The bench's command line."""

from __future__ import annotations

import shutil

import pytest

from bench.__main__ import parse_arguments
from bench.works import Work


def test_by_default_everything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    options = parse_arguments([])
    assert options.works == list(Work)
    assert options.subjects == ["touchmark", "touchmark-python", "envoy", "nginx", "haproxy", "stunnel"]
    for there in ("ghostunnel", "go"):
        monkeypatch.setattr(shutil, "which", lambda name, there=there: f"/usr/bin/{name}" if name == there else None)
        assert parse_arguments([]).subjects[-1] == "ghostunnel"
    assert parse_arguments(["--subjects", "rust-floor"]).subjects == ["rust-floor"]
    assert options.rounds == 3
    assert not options.namespaces
    namespaced = parse_arguments(["--namespaces"])
    assert namespaced.subjects == ["touchmark", "touchmark-python", "envoy"], "ztunnel is there only where it's named"
    assert parse_arguments(["--namespaces", "--subjects", "envoy,ztunnel"]).subjects == ["envoy", "ztunnel"]


def test_works_and_subjects_are_chosen_by_name() -> None:
    options = parse_arguments(["--works", "bulk,first_byte", "--subjects", "envoy", "--rounds", "1"])
    assert options.works == ["bulk", "first_byte"]
    assert options.subjects == ["envoy"]
    assert options.rounds == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--works", "bulk,speed"], "speed: choose from memory_idle"),
        (["--subjects", ""], "nothing: choose from"),
        (["--rounds", "0"], "isn't a whole number from 1 on"),
        (["--duration", "1.5"], "isn't a whole number from 1 on"),
        (["--subjects", "ztunnel"], "ztunnel takes part only with --namespaces"),
        (["--namespaces", "--subjects", "envoy,nginx"], "not for nginx"),
    ],
)
def test_a_wrong_option_is_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_arguments(arguments)
    assert ended.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
