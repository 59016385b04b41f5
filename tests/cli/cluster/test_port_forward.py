"""The CA's admin API through a port-forward: what verbs say, and how it fails."""

from __future__ import annotations

import stat
from pathlib import Path

import msgspec
import pytest

from cli.cluster.connection import connect
from cli.cluster.faults import NoCAPodError
from cli.cluster.port_forward import forward_admin
from cli.main import run
from cli.text.exit_codes import ExitCode
from shared.model.wire.admin import DecisionList, Health, IdentityList
from tests.cli.fake_api import CA_PODS, FakeAPI, make_pod
from tests.cli.fake_ca import FakeCA
from tests.cli.observations import DENIAL

FORWARD = "/api/v1/namespaces/touchmark-system/pods/touchmark-ca-0/portforward"


async def ask_health() -> Health:
    async with connect() as cluster, forward_admin(cluster, "touchmark-system") as client:
        return await client.get_health()


def test_verbs_reach_the_ca_in_its_pod(cluster_ca: FakeCA, api: FakeAPI, capsys: pytest.CaptureFixture[str]) -> None:
    cluster_ca.answers["GET /v1/decisions"] = DecisionList(decisions=())
    cluster_ca.answers["GET /v1/identities"] = IdentityList(identities=())
    assert run(["decisions", "-k", "--json"]) == ExitCode.SUCCESS
    assert msgspec.json.decode(capsys.readouterr().out) == []
    assert run(["identities", "--context", "fake"]) == ExitCode.SUCCESS
    assert api.forwarded == [FORWARD, FORWARD]
    queries = [query for key, query, _ in api.requests if key == f"GET {FORWARD}"]
    assert queries == [{"ports": "15081"}] * 2


async def test_large_answers_come_whole_and_one_connection_serves_several_calls(
    cluster_ca: FakeCA, api: FakeAPI
) -> None:
    cluster_ca.answers["GET /readyz"] = Health(status="x" * 300_000)
    async with connect() as cluster, forward_admin(cluster, "touchmark-system") as client:
        assert len((await client.get_health()).status) == 300_000
        assert len((await client.get_health()).status) == 300_000
    assert len(api.forwarded) == 1


async def test_the_socket_is_this_user_s_alone_and_goes_with_the_forward(
    cluster_ca: FakeCA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster_ca.answers["GET /readyz"] = Health(status="ok")
    directory = tmp_path / "t"
    directory.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(directory))
    async with connect() as cluster, forward_admin(cluster, "touchmark-system") as client:
        await client.get_health()
        [private] = directory.iterdir()
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert not list(directory.iterdir())


async def test_what_the_kubelet_says_on_the_error_channel_is_the_error(cluster_ca: FakeCA, api: FakeAPI) -> None:
    api.forward_error = "error forwarding port 15081: connection refused"
    with pytest.raises(NoCAPodError, match=r"touchmark-ca-0: .*connection refused"):
        await ask_health()


async def test_a_ca_that_ends_the_connection_is_named(cluster_ca: FakeCA, api: FakeAPI) -> None:
    api.first_frames = ()
    with pytest.raises(NoCAPodError, match="touchmark-ca-0"):
        await ask_health()


async def test_the_next_pod_is_asked_when_one_can_t_be_reached(cluster_ca: FakeCA, api: FakeAPI) -> None:
    api.answers[CA_PODS] = {"items": [make_pod("gone"), make_pod("there")]}
    cluster_ca.answers["GET /readyz"] = Health(status="ok")
    forward = api._forward

    async def refuse_the_first(request):  # type: ignore[no-untyped-def]  # As the fake's own method.
        api.forward_status = 502 if "/gone/" in request.path else 101
        return await forward(request)

    api._forward = refuse_the_first  # type: ignore[method-assign]
    assert (await ask_health()).status == "ok"


async def test_when_no_pod_can_be_reached_it_says_so(cluster_ca: FakeCA, api: FakeAPI) -> None:
    api.forward_status = 502
    with pytest.raises(NoCAPodError, match="can be reached"):
        await ask_health()


def test_without_the_right_to_forward_the_error_says_which(
    cluster_ca: FakeCA, api: FakeAPI, capsys: pytest.CaptureFixture[str]
) -> None:
    api.forward_status = 403
    assert run(["decisions", "-k", "--json"]) == ExitCode.REFUSED
    error = msgspec.json.decode(capsys.readouterr().err)
    assert error["code"] == "forbidden"
    assert "pods/portforward" in error["hint"]


def test_decisions_are_followed_through_it(cluster_ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    lines = b"\n".join([msgspec.json.encode(DENIAL), b"", msgspec.json.encode(DENIAL), b""])
    cluster_ca.answers["GET /v1/decisions/follow"] = lines
    assert run(["decisions", "-k", "--follow", "--json"]) == ExitCode.SUCCESS
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_follow_without_a_ca_is_an_error_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["decisions", "--follow", "--admin-socket", str(tmp_path / "none")]) == ExitCode.UNAVAILABLE
    assert "no CA here" in capsys.readouterr().err
