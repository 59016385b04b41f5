"""What a user is offered: what the CA and the API server would let it do, and nothing where that isn't known."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from cli.backends.rights import Rights, find_rights
from cli.backends.target import Target
from tests.cli.fake_api import running_api

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


def test_in_a_cluster_the_api_server_says_which_changes_are_offered(tmp_path: Path) -> None:
    def review(request: web.Request) -> Any:
        async def answer() -> Any:
            asked = (await request.json())["spec"]["resourceAttributes"]
            assert asked["namespace"] == "shop"
            return {"status": {"allowed": (asked["verb"], asked["resource"]) == ("patch", "programs")}}

        return answer()

    with running_api(tmp_path) as api:
        api.answers["POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews"] = review
        target = Target(in_cluster=True, kubeconfig=str(api.kubeconfig))
        assert asyncio.run(find_rights(target, "shop")) == Rights(approves=True)


async def test_nothing_is_offered_where_the_cluster_cant_be_asked(tmp_path: Path) -> None:
    target = Target(in_cluster=True, kubeconfig=str(tmp_path / "none"))
    assert await find_rights(target, "shop") == Rights()
