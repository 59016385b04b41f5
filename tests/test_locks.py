"""The lock files agree with one another and with what the code imports."""

from __future__ import annotations

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOCKS = sorted(path.name for path in ROOT.glob("requirements*.lock"))
_PIN = re.compile(r"^([a-z0-9-]+)(?:\[[^]]*\])?==(\S+)", re.MULTILINE)


def pins(lock: str) -> dict[str, str]:
    """Distribution → version."""
    return dict(_PIN.findall((ROOT / lock).read_text(encoding="utf-8")))


def imported(*packages: str) -> set[str]:
    """The top-level modules that these packages' files name, without the standard library's and our own."""
    names = set()
    for package in packages:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    names |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
                    names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"ca", "cli", "shared", "sidecar"}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_lock_pins_the_same_versions_with_hashes_and_names_no_index(lock: str) -> None:
    whole = pins("requirements-bench.lock")
    assert pins(lock)
    assert pins(lock).items() <= whole.items()
    text = (ROOT / lock).read_text(encoding="utf-8")
    assert "://" not in re.sub(r"^ *#.*$", "", text, flags=re.MULTILINE)
    assert text.count("--hash=sha256:") >= len(pins(lock))


def test_the_sidecar_s_lock_holds_what_the_sidecar_imports_and_no_more() -> None:
    """Its image is made from it: what is missing would only show in a pod, what is too much is memory and risk."""
    direct = {
        re.sub(r"[-_.]+", "-", name).lower()
        for module in imported("sidecar", "shared")
        for name in packages_distributions()[module]
    }
    held = set(pins("requirements-sidecar.lock"))
    assert direct <= held
    assert held - direct <= {"cffi", "pycparser", "typing-extensions"}, "what those need in turn"
