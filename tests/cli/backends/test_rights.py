"""What a user is offered: what the CA and the API server would let it do, and nothing where that isn't known."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cli.backends.rights import Rights, find_rights
from cli.backends.target import Target

ALL = Rights(approves=True, refuses=True, switches=True)


async def test_who_owns_the_admin_socket_and_root_change_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    socket = tmp_path / "admin.sock"
    target = Target(admin_socket=socket)
    assert await find_rights(target, "shop") == Rights(), "there is no CA"
    socket.touch()
    assert await find_rights(target, "shop") == ALL
    monkeypatch.setattr(os, "geteuid", lambda: os.stat(socket).st_uid + 1)
    assert await find_rights(target, "shop") == Rights()


async def test_nothing_is_offered_where_the_cluster_cant_be_asked(tmp_path: Path) -> None:
    target = Target(in_cluster=True, kubeconfig=str(tmp_path / "none"))
    assert await find_rights(target, "shop") == Rights()
