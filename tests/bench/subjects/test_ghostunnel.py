"""ghostunnel's arguments: each side checks the other's name, and nothing is accepted without."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.material import CLIENT_NAME, SERVER_NAME, write_material
from bench.processes import REPOSITORY
from bench.subjects import ghostunnel


def test_both_sides_verify_each_other(tmp_path: Path) -> None:
    material = write_material(tmp_path)
    server = ghostunnel.server_arguments(material, ("127.0.0.1", 1001), ("127.0.0.1", 1002))
    client = ghostunnel.client_arguments(material, ("127.0.0.1", 1003), ("127.0.0.1", 1001))
    assert server[server.index("--allow-dns") + 1] == CLIENT_NAME
    assert client[client.index("--verify-dns") + 1] == SERVER_NAME
    for arguments in (server, client):
        assert arguments[arguments.index("--cacert") + 1] == str(material.root)
        assert not any(argument.startswith("--disable") for argument in arguments)


@pytest.fixture(autouse=True)
def _forget_the_binary() -> Iterator[None]:
    ghostunnel.ghostunnel_binary.cache_clear()
    yield
    ghostunnel.ghostunnel_binary.cache_clear()


def test_where_neither_it_nor_go_is_there_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(BenchError) as caught:
        ghostunnel.ghostunnel_binary()
    assert "go.mod" in caught.value.hint
    assert (REPOSITORY / "bench/subjects/go/go.mod").is_file()


def test_the_one_on_path_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "ghostunnel"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ghostunnel.ghostunnel_binary() == program
