"""The version is said in one place."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from shared.model import version

ROOT = Path(__file__).parents[3]


def test_the_build_reads_the_version_from_the_module() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" not in project["project"]
    assert project["project"]["dynamic"] == ["version"]
    named = ROOT / project["tool"]["hatch"]["version"]["path"]
    assert named.samefile(version.__file__)
    # As hatchling's own pattern has it: an annotation other than `str` would hide it.
    found = re.search(r"(?im)^VERSION(?: ?: ?str)? *= *([\"'])v?(?P<version>.+?)\1", named.read_text(encoding="utf-8"))
    assert found is not None
    assert found["version"] == version.VERSION


def test_no_component_says_it_again() -> None:
    for package in ("ca", "cli", "sidecar", "shared"):
        for path in (ROOT / package).rglob("*.py"):
            if not path.samefile(version.__file__):
                assert f'"{version.VERSION}"' not in path.read_text(encoding="utf-8"), path
