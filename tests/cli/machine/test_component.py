"""A component is the one that is installed: where there is none, that is an error of this machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from cli.machine.component import become_component, list_flags
from shared.model.errors import MachineError


def test_a_component_that_isn_t_installed_is_named() -> None:
    with pytest.raises(MachineError, match="no_such_component"):
        become_component("no_such_component", [])


def test_modules_of_the_working_directory_are_a_components_only_where_they_are_this_processs_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def execute(_: str, arguments: list[str]) -> None:
        raise SystemExit(" ".join(arguments[1:]))

    monkeypatch.setattr(os, "execv", execute)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    with pytest.raises(SystemExit, match=r"^-P -m ca --help$"):
        become_component("ca", ["--help"])
    monkeypatch.syspath_prepend(os.getcwd())
    with pytest.raises(SystemExit, match=r"^-m ca --help$"):
        become_component("ca", ["--help"])
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert list_flags() == ["-P"]
