"""The kubeconfig's files are those that kubectl would read."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.machine.kubeconfig_files import list_kubeconfig_files


def test_the_kubeconfig_is_a_list_of_files_of_which_some_may_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "there"
    there.write_text("{}")
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'gone'}:{there}")
    assert list_kubeconfig_files() == [there]
    assert list_kubeconfig_files(str(tmp_path / "gone")) == []
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".kube").mkdir()
    (tmp_path / ".kube" / "config").write_text("{}")
    assert list_kubeconfig_files() == [tmp_path / ".kube" / "config"]
