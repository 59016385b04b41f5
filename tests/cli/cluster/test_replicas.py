"""Live connections of several replicas of the CA: every one is asked; a sidecar that none has heard from is silent."""

from __future__ import annotations

import msgspec
import pytest

from cli.cluster.replicas import MAX_REPLICAS, merge_connections
from cli.main import run
from cli.text.exit_codes import ExitCode
from shared.model.wire.admin import ConnectionList, ConnectionView
from shared.model.wire.messages import LiveConnection
from tests.cli.fake_api import CA_PODS, FakeAPI, make_pod
from tests.cli.fake_ca import FakeCA


def view(sidecar: str, connection: str) -> ConnectionView:
    live = LiveConnection(
        connection=connection, tunnel="", direction="outbound", transport="tunnel", would_deny=False, since=0.0,
        source="198.18.0.1:40000", source_workload="shop/web", source_program="",
        destination="198.18.0.2:80", destination_workload="shop/db", destination_program="",
        reason="mesh_group", bytes_sent=1, bytes_received=2,
    )  # fmt: skip
    return ConnectionView(sidecar=sidecar, workload="shop/web", connection=live)


def test_silent_is_who_is_silent_for_every_replica() -> None:
    first = ConnectionList(connections=(view("a", "1"),), silent=("b", "c", "late"))
    second = ConnectionList(connections=(view("b", "2"),), silent=("a", "c", "late"))
    third = ConnectionList(connections=(), silent=("a", "b", "late"))  # Its sidecar "c" has no connection.
    merged = merge_connections([first, second, third], limit=10)
    assert [each.sidecar for each in merged.connections] == ["a", "b"]
    assert merged.silent == ("late",)
    assert not merged.truncated


def test_a_sidecar_that_answered_two_replicas_is_listed_once() -> None:
    one = ConnectionList(connections=(view("a", "1"), view("a", "2")))
    merged = merge_connections([one, one], limit=10)
    assert [each.connection.connection for each in merged.connections] == ["1", "2"]


def test_the_limit_is_for_all_together() -> None:
    answers = [ConnectionList(connections=(view(name, "1"),)) for name in ("a", "b")]
    merged = merge_connections(answers, limit=1)
    assert (len(merged.connections), merged.truncated) == (1, True)
    assert merge_connections([ConnectionList(connections=(), truncated=True)], limit=1).truncated


def ask(capsys: pytest.CaptureFixture[str]) -> ConnectionList:
    assert run(["connections", "-k", "--json", "--limit", "7"]) == ExitCode.SUCCESS
    return msgspec.json.decode(capsys.readouterr().out, type=ConnectionList)


def test_every_ready_replica_is_asked(cluster_ca: FakeCA, api: FakeAPI, capsys: pytest.CaptureFixture[str]) -> None:
    pods = [make_pod("ca-0"), make_pod("ca-1"), make_pod("ca-2", ready=False)]
    api.answers[CA_PODS] = {"items": pods}
    cluster_ca.answers["GET /v1/connections"] = [
        ConnectionList(connections=(view("a", "1"),), silent=("b",)),
        ConnectionList(connections=(view("b", "2"),), silent=("a",)),
    ]
    answer = ask(capsys)
    assert sorted(each.sidecar for each in answer.connections) == ["a", "b"]
    assert answer.silent == ()
    assert sorted(path.split("/")[6] for path in api.forwarded) == ["ca-0", "ca-1"]
    assert {query["limit"] for _, query, _ in cluster_ca.requests} == {"7"}


def test_one_that_cant_be_reached_leaves_its_sidecars_silent(
    cluster_ca: FakeCA, api: FakeAPI, capsys: pytest.CaptureFixture[str]
) -> None:
    api.answers[CA_PODS] = {"items": [make_pod("gone"), make_pod("there")]}
    cluster_ca.answers["GET /v1/connections"] = ConnectionList(connections=(), silent=("a",))
    forward = api._forward

    async def refuse_one(request):  # type: ignore[no-untyped-def]  # As the fake's own method.
        api.forward_status = 502 if "/gone/" in request.path else 101
        return await forward(request)

    api._forward = refuse_one  # type: ignore[method-assign]
    assert ask(capsys).silent == ("a",)


def test_when_none_answers_its_fault_is_said(
    cluster_ca: FakeCA, api: FakeAPI, capsys: pytest.CaptureFixture[str]
) -> None:
    api.forward_status = 403
    assert run(["connections", "-k", "--json"]) == ExitCode.REFUSED
    assert msgspec.json.decode(capsys.readouterr().err)["code"] == "forbidden"


def test_the_replicas_asked_are_bounded(cluster_ca: FakeCA, api: FakeAPI, capsys: pytest.CaptureFixture[str]) -> None:
    api.answers[CA_PODS] = {"items": [make_pod(f"ca-{number:02}") for number in range(MAX_REPLICAS + 4)]}
    cluster_ca.answers["GET /v1/connections"] = ConnectionList(connections=())
    ask(capsys)
    assert len(api.forwarded) == MAX_REPLICAS
