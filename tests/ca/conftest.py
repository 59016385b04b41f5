"""The tests of the store, and of what stands on it directly, run on SQLite and on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.ca import founded
from tests.ca.postgresql import PostgreSQL, find_programs
from tests.ca.unhurried import unhurry


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """One server for the session, and a database for each that asks."""
    programs = find_programs()
    if programs is None:
        pytest.skip("needs PostgreSQL's server (Debian: apt install postgresql)")
    server = PostgreSQL(programs)
    try:
        server.start()
        with pytest.MonkeyPatch.context() as patches:
            unhurry(patches)
            server.make_template()
        yield server
    finally:
        server.close()


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is, nobody is given up."""
    unhurry(monkeypatch)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Who opens a CA's core by ``founded.opened`` is run once with each kind of database."""
    if getattr(metafunc.module, "opened", None) is founded.opened and "tmp_path" in metafunc.fixturenames:
        metafunc.fixturenames.append("backend")
        metafunc.parametrize("backend", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture(autouse=True)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where ``opened`` finds its store: in the directory, or in a database that takes its place."""
    kind = str(getattr(request, "param", "sqlite"))
    if kind == "postgresql":
        server: PostgreSQL = request.getfixturevalue("postgresql")
        monkeypatch.setattr(founded, "locate", server.url_for)
        monkeypatch.setattr(founded, "provide", server.provide)
    return kind
