"""The client: the CA's errors come back as they are, silence has a deadline, odd answers are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.admin.client import AdminClient
from cli.main import run
from shared.model.errors import ConflictError, InputError, UnavailableError
from shared.model.wire.admin import ErrorAnswer
from tests.cli.fake_ca import FakeCA


async def test_the_ca_s_error_comes_back_with_code_and_hint(ca: FakeCA) -> None:
    ca.answers["GET /v1/rotation"] = ErrorAnswer(code="conflict", message="busy", hint="wait")
    async with AdminClient(ca.socket) as client:
        with pytest.raises(ConflictError) as caught:
            await client.get_rotation()
    assert (caught.value.message, caught.value.hint) == ("busy", "wait")


async def test_an_answer_of_another_shape_names_the_endpoint(ca: FakeCA) -> None:
    ca.answers["GET /v1/rotation"] = {"step": 7}
    async with AdminClient(ca.socket) as client:
        with pytest.raises(UnavailableError, match="/v1/rotation"):
            await client.get_rotation()


async def test_a_path_that_no_socket_can_have_is_the_user_s_mistake(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="too long"):
        async with AdminClient(tmp_path / ("x" * 120)):
            pass


def test_without_a_local_ca_but_with_a_kubeconfig_the_hint_says_k(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    socket = str(tmp_path / "none.sock")
    run(["ca", "status", "--admin-socket", socket])
    assert "-k " not in capsys.readouterr().err
    (tmp_path / "kubeconfig").write_text("{}")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    run(["ca", "status", "--admin-socket", socket])
    assert "hint: -k talks to the CA in the cluster" in capsys.readouterr().err
