"""The tests of the store, and of what stands on it directly, run on SQLite and on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ca import listening
from ca.api.stream import endpoint
from ca.store.engine import database
from tests.ca import founded
from tests.ca.postgresql import PostgreSQL, find_programs


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """One server for the session, and a database for each that asks."""
    programs = find_programs()
    if programs is None:
        pytest.skip("needs PostgreSQL's server (Debian: apt install postgresql)")
    server = PostgreSQL(programs)
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is, a stream that is opened before its turn isn't refused, nor a database given up."""
    monkeypatch.setattr(endpoint, "FIRST_MESSAGE_DEADLINE_S", 300.0)
    monkeypatch.setattr(database, "CONNECT_DEADLINE_S", 120.0)
    monkeypatch.setattr(database, "POOL_DEADLINE_S", 120.0)
    monkeypatch.setattr(database, "STATEMENT_DEADLINE_S", 120.0)
    monkeypatch.setattr(database, "_BUSY_TIMEOUT_MS", 120_000)
    monkeypatch.setattr(listening, "HANDSHAKE_DEADLINE_S", 120.0)
    monkeypatch.setattr(listening, "FIRST_REQUEST_DEADLINE_S", 120.0)


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
    return kind
