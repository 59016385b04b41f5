"""The tree's shape: each module has its tests, each page names only what is there."""

from __future__ import annotations

import ast
import re
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from shared.model.policy.reasons import Reason

ROOT = Path(__file__).parents[1]
PACKAGES = ("ca", "cli", "sidecar", "shared")


def modules() -> list[Path]:
    """Every module that does something: package docstrings, ``__main__`` and migrations' versions are no such."""
    return sorted(
        path.relative_to(ROOT)
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if path.name not in {"__init__.py", "__main__.py"} and "versions" not in path.parts
    )


@pytest.mark.parametrize("module", modules(), ids=str)
def test_each_module_is_named_by_a_test_of_its_package(module: Path) -> None:
    """A package's tests stand in the mirrored folder; small modules may share a test file."""
    folder = ROOT / "tests" / module.parent
    if (folder / f"test_{module.name}").is_file():
        return
    name = ".".join(module.with_suffix("").parts)
    package, _, last = name.rpartition(".")
    imports = re.compile(rf"{re.escape(name)}\b|from {re.escape(package)} import [^\n]*\b{last}\b")
    texts = [path.read_text(encoding="utf-8") for path in folder.glob("*.py")]
    assert any(imports.search(text) for text in texts), f"no test in {folder.relative_to(ROOT)} names {name}"


@cache
def imports() -> dict[str, set[str]]:
    """Each module's imports of ours, also under TYPE_CHECKING and inside functions."""
    known = {".".join(path.with_suffix("").parts) for path in modules()}
    found: dict[str, set[str]] = {}
    for path in modules():
        edges = found.setdefault(".".join(path.with_suffix("").parts), set())
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                edges |= (names | {node.module}) & known
            elif isinstance(node, ast.Import):
                edges |= {alias.name for alias in node.names} & known
    return found


def find_circle(graph: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_modules_import_one_another_in_a_circle() -> None:
    assert find_circle(imports()) == []


def test_no_packages_import_one_another_in_a_circle() -> None:
    """What a package's modules import of other packages; a package's own folder and those below it are two."""
    graph: dict[str, set[str]] = {}
    for module, targets in imports().items():
        package = module.rpartition(".")[0]
        graph.setdefault(package, set()).update(target.rpartition(".")[0] for target in targets)
    for package, targets in graph.items():
        targets.discard(package)
        # The stories of a component stand beside its packages: `ca/issuance.py`, `sidecar/outbound.py`.
        targets -= {each for each in targets if "." not in each}
    assert find_circle(graph) == []


def test_no_folder_holds_more_than_a_reader_takes_in() -> None:
    """About a dozen modules; the commands are one a verb."""
    for folder in {module.parent for module in modules()} - {Path("cli/commands")}:
        names = sorted(module.name for module in modules() if module.parent == folder)
        assert len(names) <= 14, f"{folder}: {names}"


@pytest.mark.parametrize("package", [*PACKAGES, "tests"])
def test_each_directory_with_modules_is_a_package(package: str) -> None:
    """Without ``__init__.py`` at every level pytest imports ``tests/ca`` as ``ca``."""
    for path in (ROOT / package).rglob("*.py"):
        if "versions" not in path.parts:
            assert (path.parent / "__init__.py").is_file(), path.relative_to(ROOT)


def test_no_package_initialises_more_than_a_docstring_and_names() -> None:
    """What a package does stands in its modules, where a mirrored test file covers it."""
    for package in PACKAGES:
        for path in (ROOT / package).rglob("__init__.py"):
            code = path.read_text(encoding="utf-8")
            assert not re.search(r"^(def|class|async def) ", code, re.MULTILINE), path.relative_to(ROOT)


@pytest.mark.parametrize("module", modules(), ids=str)
def test_each_module_stays_readable(module: Path) -> None:
    """250 lines are the aim; above 600 a module is several."""
    text = (ROOT / module).read_text(encoding="utf-8")
    assert text.count("\n") <= 600
    assert text.startswith('"""'), "a module's docstring says what belongs in it"


@pytest.mark.parametrize("page", sorted(path.relative_to(ROOT) for path in ROOT.glob("docs/**/*.md")), ids=str)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (ROOT / page.parent / target).exists(), f"{page} links to {target}"


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"])
def test_links_of_the_front_pages_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (ROOT / target).exists(), f"{page} links to {target}"


@pytest.mark.parametrize("reason", Reason, ids=str)
def test_each_reason_is_produced_somewhere(reason: Reason) -> None:
    """A code that nothing produces any more is removed, together with its entry on the page."""
    name = re.compile(rf"\bReason\.{reason.name}\b")
    sources = [path for path in modules() if path.name != "reasons.py" and path.parts[0] in {"ca", "sidecar", "shared"}]
    assert any(name.search((ROOT / path).read_text(encoding="utf-8")) for path in sources)
