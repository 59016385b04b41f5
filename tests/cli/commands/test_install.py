"""`touchmark install`: checks, shows, asks, applies, waits, and says what comes next."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from cli.cluster.installation.bundle import load_objects
from cli.cluster.installation.choices import Choices
from cli.cluster.installation.rendering import render
from cli.commands import installing
from cli.main import run
from cli.text.exit_codes import ExitCode
from shared.model.errors import InputError
from tests.cli.fake_api import FakeAPI, make_status
from tests.cli.object_store import ObjectStore, open_store

DEPLOYMENT = "/apis/apps/v1/namespaces/touchmark-system/deployments/touchmark-ca"
CLASS = "/apis/storage.k8s.io/v1/storageclasses/local"
SYSTEM = "/api/v1/namespaces/touchmark-system"


@pytest.fixture
def store(api: FakeAPI) -> ObjectStore:
    return open_store(api)


def list_writes(store: ObjectStore) -> list[str]:
    return [
        key for key, query, _ in store.api.requests if key.split()[0] in ("PATCH", "DELETE") and "dryRun" not in query
    ]


def read_error(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    error: dict[str, str] = json.loads(capsys.readouterr().err)
    return error


def test_in_a_new_cluster_it_installs_waits_and_says_what_comes_next(
    store: ObjectStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["install", "--yes"]) == ExitCode.SUCCESS
    out, err = capsys.readouterr()
    expected = render(load_objects(has_database=False), Choices())
    assert f"{len(expected)} objects: {len(expected)} to create, 0 to change, 0 unchanged" in out
    assert "Touchmark 0.2.0 is installed in touchmark-system, and its CA is ready" in out
    assert "  touchmark doctor -k " in out
    assert "1 of 1 replicas of the CA are ready" in err
    kinds = [each["kind"] for each in expected]
    bodies = [
        body["kind"] for key, query, body in store.api.requests if key.startswith("PATCH") and "dryRun" not in query
    ]
    assert bodies == kinds, "in this order"


def test_json_says_the_same_in_one_object(store: ObjectStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["install", "--yes", "--json"]) == ExitCode.SUCCESS
    out, err = capsys.readouterr()
    answer = json.loads(out)
    assert (answer["is_applied"], answer["is_ready"], answer["laggards"]) == (True, True, [])
    assert answer["changes"][0] == {
        "kind": "Namespace",
        "namespace": "",
        "name": "touchmark-system",
        "effect": "created",
        "is_tried": True,
        "fields": [],
    }
    assert err == ""


def test_a_trial_changes_nothing_and_asks_nobody(store: ObjectStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["install", "--dry-run"]) == ExitCode.SUCCESS
    assert "nothing was changed (--dry-run)" in capsys.readouterr().out
    assert list_writes(store) == []


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_without_a_terminal_nobody_has_agreed(
    store: ObjectStore, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    assert run(["install", *options]) == ExitCode.REFUSED
    assert "--yes" in capsys.readouterr().err
    assert list_writes(store) == []


@pytest.mark.parametrize(("answer", "code"), [("y\n", ExitCode.SUCCESS), ("n\n", ExitCode.REFUSED)])
def test_on_a_terminal_it_asks(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, answer: str, code: ExitCode
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda question, err: answer == "y\n")
    assert run(["install"]) == code
    assert bool(list_writes(store)) is (code == ExitCode.SUCCESS)


def test_yaml_is_printed_without_any_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["install", "-o", "yaml", "--system-namespace", "mesh", "--image", "r/ca:1", "--sidecar-image", "r/s:1"]
    command += ["--database-secret", "db", "--replicas", "2", "--pull-secret", "registry", "--node-selector", "a=b"]
    assert run([*command, "--priority-class", "high", "--api-server-port", "8443"]) == ExitCode.SUCCESS
    printed = list(yaml.safe_load_all(capsys.readouterr().out))
    choices = Choices(
        namespace="mesh",
        image="r/ca:1",
        sidecar_images=("r/s:1",),
        trust_domain="touchmark.local",
        database_secret="db",
        replicas=2,
        pull_secrets=("registry",),
        node_selector=(("a", "b"),),
        priority_class="high",
        api_server_ports=(8443,),
    )
    assert printed == render(load_objects(has_database=True), choices)


def test_a_cluster_that_isn_t_ready_is_left_as_it_is(store: ObjectStore, capsys: pytest.CaptureFixture[str]) -> None:
    local = store.objects.pop(CLASS)
    assert run(["install", "--yes", "--json"]) == ExitCode.CHECK_FAILED
    error = read_error(capsys)
    assert error["code"] == "preflight_failed"
    assert "storage class" in error["message"]
    assert "--force" in error["hint"]
    assert list_writes(store) == []
    assert run(["install", "--yes"]) == ExitCode.CHECK_FAILED
    assert "✗ storage class: no default" in capsys.readouterr().err
    assert run(["install", "--yes", "--storage-class", "slow"]) == ExitCode.CHECK_FAILED
    assert "✗ storage class: there is no slow" in capsys.readouterr().err
    slow = {**local, "metadata": {"name": "slow"}}
    store.objects["/apis/storage.k8s.io/v1/storageclasses/slow"] = slow
    assert run(["install", "--yes", "--storage-class", "slow"]) == ExitCode.SUCCESS


def test_force_goes_on_and_a_database_needs_no_storage_class(store: ObjectStore) -> None:
    del store.objects[CLASS]
    assert run(["install", "--yes", "--force"]) == ExitCode.SUCCESS
    store.objects = {path: each for path, each in store.objects.items() if "/nodes/" in path}
    assert run(["install", "--yes", "--database-secret", "db"]) == ExitCode.SUCCESS
    assert store.objects[DEPLOYMENT]["spec"]["replicas"] == 3


def test_what_is_installed_already_is_upgraded_instead(store: ObjectStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["install", "--yes"]) == ExitCode.SUCCESS
    store.api.requests.clear()
    capsys.readouterr()
    assert run(["install", "--yes", "--json"]) == ExitCode.CONFLICT
    error = read_error(capsys)
    assert error["code"] == "already_installed"
    assert "touchmark upgrade" in error["hint"]
    assert run(["install", "--yes", "--json", "--system-namespace", "other"]) == ExitCode.CONFLICT
    assert "--system-namespace touchmark-system" in read_error(capsys)["hint"]
    assert list_writes(store) == []


def test_a_namespace_that_was_there_keeps_its_labels(store: ObjectStore, capsys: pytest.CaptureFixture[str]) -> None:
    own: dict[str, Any] = {"kind": "Namespace", "metadata": {"name": "touchmark-system", "labels": {"team": "a"}}}
    store.objects[SYSTEM] = own
    assert run(["install", "--yes"]) == ExitCode.SUCCESS
    assert store.objects[SYSTEM] is own
    assert "was there before" in capsys.readouterr().err


def test_a_ca_that_doesn_t_come_up_is_said_with_its_own_exit_code(
    store: ObjectStore, capsys: pytest.CaptureFixture[str]
) -> None:
    store.has_controllers = False
    assert run(["install", "--yes", "--timeout", "0.01"]) == ExitCode.DEADLINE
    out, err = capsys.readouterr()
    assert "but its CA isn't ready" in out
    assert "kubectl label" not in out, "pods that ask for a sidecar wouldn't be made"
    assert "0 of 1 replicas" in err
    assert "describe pods" in err
    assert "touchmark upgrade -k --image NAME" in err


def test_who_doesn_t_wait_isn_t_told_that_it_is_ready(store: ObjectStore, capsys: pytest.CaptureFixture[str]) -> None:
    store.has_controllers = False
    assert run(["install", "--yes", "--no-wait"]) == ExitCode.SUCCESS
    assert "nobody waited" in capsys.readouterr().out


def test_an_object_that_the_server_refuses_stops_it_before_anything_is_made(
    store: ObjectStore, capsys: pytest.CaptureFixture[str]
) -> None:
    path = "/apis/rbac.authorization.k8s.io/v1/clusterroles/touchmark-ca"
    store.refused[f"PATCH {path}"] = make_status(403, "Forbidden", "attempting to grant RBAC permissions")
    assert run(["install", "--yes", "--json"]) == ExitCode.REFUSED
    assert read_error(capsys)["code"] == "forbidden"
    assert list_writes(store) == []


@pytest.mark.parametrize(
    "options",
    [
        ["--output", "table"],
        ["--output", "yaml", "--json"],
        ["--replicas", "2"],
        ["--node-selector", "a"],
        ["--trust-domain", "NO"],
        ["--system-namespace", "NO"],
        ["--storage-size", "much"],
    ],
    ids=" ".join,
)
def test_what_can_t_be_is_the_user_s_mistake(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["install", "--yes", *options]) == ExitCode.BAD_INPUT
    assert "error[" in capsys.readouterr().err or "--json" in options


def test_only_yaml_is_a_form_of_output() -> None:
    assert installing.check_output("yaml", as_json=False)
    assert not installing.check_output("", as_json=True)
    with pytest.raises(InputError):
        installing.check_output("json", as_json=False)
