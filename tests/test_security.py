"""SECURITY.md: each defended attack names a test that is there, and each number is the constant's."""

from __future__ import annotations

import ast
import re
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
NAME = re.compile(r"`(?P<file>tests/[\w/]+\.py)?(?:::)?(?P<test>test_\w+)?`")


def section(title: str) -> str:
    return TEXT.partition(f"## {title}\n")[2].partition("\n## ")[0]


def rows(title: str) -> list[list[str]]:
    """The cells of a section's table, without its heading."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


@cache
def entries(title: str) -> dict[str, str]:
    """What a section's list says of each attack, by the attack."""
    found = re.findall(r"(?ms)^- \*\*(.+?)\*\*(.*?)(?=^- |^#|\Z)", section(title))
    assert len({attack for attack, _ in found}) == len(found) == section(title).count("\n- ")
    return {" ".join(attack.split()): answer for attack, answer in found}


@cache
def names_in(file: Path) -> frozenset[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions = (each for each in ast.walk(tree) if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(each.name for each in functions if each.name.startswith("test_"))


@cache
def all_tests() -> frozenset[str]:
    return frozenset[str]().union(*(names_in(file) for file in (ROOT / "tests").rglob("test_*.py")))


def find_missing(text: str) -> list[str]:
    """Return the names of tests that aren't there; ``::test`` alone is in the file that was named before it."""
    missing, file = [], None
    for name in NAME.finditer(text):
        if name["file"]:
            file = ROOT / name["file"]
            if not file.is_file():
                missing.append(name[0])
                continue
        if name["test"] is None:
            continue
        known = names_in(file) if file is not None and "::" in name[0] else all_tests()
        if name["test"] not in known:
            missing.append(name[0])
    return missing


def test_a_test_that_is_gone_is_noticed() -> None:
    here = "tests/test_security.py"
    assert find_missing(f"`{here}::test_a_test_that_is_gone_is_noticed`, `{here}`, `test_every_test_exists`") == []
    assert find_missing(f"`{here}`, `::test_of_another_file`") == ["`::test_of_another_file`"]
    assert find_missing("`tests/test_nothing.py`") == ["`tests/test_nothing.py`"]


def test_every_test_exists() -> None:
    assert find_missing(TEXT) == []


@pytest.mark.parametrize("attack", entries("Defended"), ids=lambda attack: attack[:60])
def test_each_defended_attack_names_its_test(attack: str) -> None:
    answer = entries("Defended")[attack]
    assert any(name["file"] or name["test"] for name in NAME.finditer(answer)), attack


def test_each_undefended_attack_says_more_than_its_name() -> None:
    for attack, why in entries("Not defended").items():
        assert len(why.split()) >= 3, attack


@pytest.mark.parametrize("row", rows("Intervals and bounds"), ids=lambda row: row[-1])
def test_each_number_is_the_constants(row: list[str]) -> None:
    _, value, constant = row
    number, _, unit = value.replace(",", "").partition(" ")
    factor = {"": 1.0, "s": 1.0, "ms": 0.001}[unit]
    assert float(number) * factor == pytest.approx(read_constant(constant.strip("`")))


def read_constant(name: str) -> float:
    """Return ``package.module.NAME``, or the default of ``package.module.Class.field``."""
    module, _, last = name.rpartition(".")
    try:
        return float(getattr(import_module(module), last))
    except ModuleNotFoundError:
        module, _, kind = module.rpartition(".")
        return float(getattr(getattr(import_module(module), kind)(), last))
