"""Hears the statements that a store's databases are given, and reads their plans."""

from __future__ import annotations

import ast
import importlib
import json
import pkgutil
import re
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import asyncpg
import pytest
import sqlalchemy
from sqlalchemy import event

import ca
from ca.store.engine.database import Database
from ca.store.engine.prepared import Prepared
from ca.store.engine.sqlite_threads import RollingBack

# What builds a query; insertions are by key.
_BUILDERS = ("select", "delete", "update")


class Heard:
    """Each statement once, with parameters that it was given, and where in the CA's code it comes from."""

    def __init__(self) -> None:
        self.statements: dict[str, tuple[str, Any]] = {}
        self.places: set[tuple[str, int]] = set()
        self.prepared: set[int] = set()

    def note(self, statement: str, parameters: Any) -> None:
        if not statement.lstrip().startswith(("SELECT", "DELETE", "UPDATE", "WITH")):
            return
        known = re.sub(r"\$\d+", "$", statement)  # How many there are in a list makes no other statement.
        known = re.sub(r"(\$(?:::\w+)?|\?)(, \1)+", r"\1", known)
        self.statements.setdefault(re.sub(r"(\([^()]*\))(, \1)+", r"\1", known), (statement, parameters))


def hear(database: Database, monkeypatch: pytest.MonkeyPatch) -> Heard:
    """Hear all that the database is given from now on: through SQLAlchemy, and by the drivers themselves."""
    heard = Heard()

    class Cursor(sqlite3.Cursor):
        def execute(self, statement: str, parameters: Any = ()) -> Self:
            heard.note(statement, tuple(parameters))
            return super().execute(statement, parameters)

    def make_cursor(driver: sqlite3.Connection) -> sqlite3.Cursor:
        return sqlite3.Connection.cursor(driver, Cursor)

    def execute(driver: sqlite3.Connection, statement: str, parameters: Any = ()) -> sqlite3.Cursor:
        return make_cursor(driver).execute(statement, parameters)

    def execute_many(driver: sqlite3.Connection, statement: str, rows: Any) -> sqlite3.Cursor:
        rows = list(rows)
        heard.note(statement, tuple(rows[0]))
        return make_cursor(driver).executemany(statement, rows)

    if database.is_sqlite:
        monkeypatch.setattr(RollingBack, "cursor", make_cursor, raising=False)
        monkeypatch.setattr(RollingBack, "execute", execute, raising=False)
        monkeypatch.setattr(RollingBack, "executemany", execute_many, raising=False)
    else:

        @event.listens_for(database._engine.sync_engine, "before_cursor_execute")
        def note(_c: object, _cursor: object, statement: str, parameters: Any, _x: object, many: bool) -> None:
            heard.note(statement, parameters[0] if many else parameters)

        fetch = asyncpg.Connection.fetch

        async def note_fetch(driver: Any, query: str, *parameters: Any) -> Any:
            heard.note(query, parameters)
            return await fetch(driver, query, *parameters)

        monkeypatch.setattr(asyncpg.Connection, "fetch", note_fetch)

    _watch_builders(heard, monkeypatch)
    return heard


def _watch_builders(heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    def watch(build: Callable[..., Any]) -> Callable[..., Any]:
        def built(*arguments: Any) -> Any:
            frame = sys._getframe(1)
            heard.places.add((frame.f_code.co_filename, frame.f_lineno))
            return build(*arguments)

        return built

    for module in list_modules():
        for name in _BUILDERS:
            if vars(module).get(name) is getattr(sqlalchemy, name):
                monkeypatch.setattr(module, name, watch(getattr(sqlalchemy, name)))
    once, each = Prepared.on, Prepared.on_each

    async def on(self: Prepared, connection: Any, **values: Any) -> Any:
        heard.prepared.add(id(self))
        return await once(self, connection, **values)

    async def on_each(self: Prepared, connection: Any, rows: Any) -> None:
        heard.prepared.add(id(self))
        await each(self, connection, rows)

    monkeypatch.setattr(Prepared, "on", on)
    monkeypatch.setattr(Prepared, "on_each", on_each)


def list_modules() -> list[ModuleType]:
    """Return the CA's modules that make statements while it runs."""
    names = [each.name for each in pkgutil.walk_packages(ca.__path__, "ca.") if ".migrations." not in each.name]
    sources = [name for name in names if (path := _find(name)).is_file() and "sqlalchemy" in path.read_text()]
    return [importlib.import_module(name) for name in sources]


def _find(name: str) -> Path:
    return Path(ca.__path__[0]).parent / Path(*name.split(".")).with_suffix(".py")


def list_places(module: ModuleType) -> Iterator[tuple[str, str, int]]:
    """Yield where a module's functions build statements: the function's name, the file's and the line."""
    assert module.__file__ is not None
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    for function in ast.walk(tree):
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _BUILDERS:
                    yield function.name, module.__file__, node.lineno


def list_prepared(module: ModuleType) -> dict[str, int]:
    """Return a module's prepared statements by name."""
    found = {name: id(each) for name, each in vars(module).items() if isinstance(each, Prepared)}
    return {f"{module.__name__}.{name}": number for name, number in found.items()}


async def find_scans(database: Database, statement: str, parameters: Any) -> list[tuple[str, str]]:
    """Return the tables that a statement reads as a whole, or up to where its filter has found enough, and how."""
    async with database.reading() as connection:
        if database.is_sqlite:
            rows = list(await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters))
            return list(_find_sqlite([row.detail for row in rows], statement))
        rows = list(await connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", tuple(parameters)))
    plan = rows[0][0]
    return list(_find_postgresql((json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"], limited=False))


def _find_sqlite(steps: list[str], statement: str) -> Iterator[tuple[str, str]]:
    # In an index's order and without a condition it reads as far as the limit.
    stops = "LIMIT" in statement and "WHERE" not in statement and not any("FOR ORDER BY" in step for step in steps)
    for step in steps:
        words = step.split()
        if words[0] == "SCAN" and words[1] not in ("CONSTANT", "(subquery") and not stops:
            yield words[1], step


def _find_postgresql(node: dict[str, Any], *, limited: bool) -> Iterator[tuple[str, str]]:
    kind = node["Node Type"]
    is_scan = kind == "Seq Scan" or (kind in ("Index Scan", "Index Only Scan") and "Index Cond" not in node)
    stops = limited and "Filter" not in node and kind != "Seq Scan"
    if is_scan and not stops:
        what = f"{kind} by {node.get('Index Name', 'nothing')}, filter {node.get('Filter', 'none')}"
        yield re.sub(r"^(edge_hours)_\d+$", r"\1", node["Relation Name"]), what
    # What sorts or sums reads all of it.
    goes_on = kind in ("Limit", "Append", "Merge Append", "Result", "Subquery Scan", "LockRows", "Nested Loop")
    for child in node.get("Plans", ()):
        yield from _find_postgresql(child, limited=kind == "Limit" or (limited and goes_on))
