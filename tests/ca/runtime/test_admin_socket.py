"""The admin socket (``ca.runtime.admin_socket``) is the CA's own: no other's is touched, and none is left behind."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from shared.model.errors import ConflictError, UnavailableError
from shared.model.wire.admin import Health
from tests.ca.running import Admin, running_ca


async def test_a_socket_that_another_serves_is_left_alone_and_a_stale_one_replaced(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        inode = path.stat().st_ino
        with pytest.raises(ConflictError, match="another CA serves"):
            async with running_ca(tmp_path):
                pass
        assert path.stat().st_ino == inode
    assert path.is_socket()  # Nobody serves it any more.
    async with running_ca(tmp_path) as services, Admin(services) as admin:
        assert (await admin.get("/healthz", Health)).status == "ok"
    assert not path.exists()


async def test_a_file_in_the_sockets_place_is_not_deleted(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    path.write_text("mine")
    with pytest.raises(UnavailableError, match="admin socket"):
        async with running_ca(tmp_path):
            pass
    assert path.read_text() == "mine"
