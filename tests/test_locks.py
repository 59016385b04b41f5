"""The sidecar's lock agrees with what the sidecar imports; `test_setup` looks at the locks as such."""

from __future__ import annotations

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]


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


def test_the_sidecar_s_lock_holds_what_the_sidecar_imports_and_no_more() -> None:
    """Its image is made from it: what is missing would only show in a pod, what is too much is memory and risk."""
    direct = {
        re.sub(r"[-_.]+", "-", name).lower()
        for module in imported("sidecar", "shared")
        for name in packages_distributions()[module]
    }
    lock = (ROOT / "requirements-sidecar.lock").read_text(encoding="utf-8")
    held = set(re.findall(r"(?m)^([a-z0-9-]+)==", lock))
    assert direct <= held
    assert held - direct <= {"cffi", "hpack", "hyperframe", "pycparser", "typing-extensions"}, "what those need in turn"
