"""`touchmark upgrade`: what was chosen stays, this release's images come, and laggards are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.main import run
from cli.text.exit_codes import ExitCode
from tests.cli.commands.test_status import answer_all
from tests.cli.fake_api import FakeAPI, make_pod, make_status
from tests.cli.fake_ca import running_ca
from tests.cli.object_store import ObjectStore, add_member, open_store

DEPLOYMENT = "/apis/apps/v1/namespaces/touchmark-system/deployments/touchmark-ca"
OLD = ["--image", "r/ca:0.1.0", "--sidecar-image", "r/sidecar:0.1.0"]


@pytest.fixture
def store(api: FakeAPI, capsys: pytest.CaptureFixture[str]) -> ObjectStore:
    """A cluster with an installation of the release before."""
    store = open_store(api)
    assert run(["install", "--yes", "--trust-domain", "example.org", "--priority-class", "high", *OLD]) == 0
    capsys.readouterr()
    store.api.requests.clear()
    return store


def read_settings(store: ObjectStore) -> dict[str, str]:
    [container] = store.objects[DEPLOYMENT]["spec"]["template"]["spec"]["containers"]
    name = container["envFrom"][0]["configMapRef"]["name"]
    data: dict[str, str] = store.objects[f"/api/v1/namespaces/touchmark-system/configmaps/{name}"]["data"]
    return data


def list_writes(store: ObjectStore) -> list[Any]:
    return [body for key, query, body in store.api.requests if key.startswith("PATCH") and "dryRun" not in query]


def test_images_change_and_everything_that_was_chosen_stays(
    store: ObjectStore, capsys: pytest.CaptureFixture[str]
) -> None:
    add_member(store, "shop", "web", image="r/sidecar:0.1.0")
    assert run(["upgrade", "--yes"]) == ExitCode.SUCCESS
    out = capsys.readouterr().out
    assert "change: Deployment touchmark-system/touchmark-ca" in out
    assert "spec.template.spec.containers[ca].image: r/ca:0.1.0 → r/ca:0.2.0" in out
    assert "Touchmark 0.2.0 is in force in touchmark-system, and its CA is ready" in out
    assert "1 pods have a former sidecar: shop/web" in out
    assert read_settings(store) == {
        "TOUCHMARK_SIDECAR_IMAGE": "r/sidecar:0.2.0,r/sidecar:0.1.0",
        "TOUCHMARK_TRUST_DOMAIN": "example.org",
    }
    assert store.objects[DEPLOYMENT]["spec"]["template"]["spec"]["priorityClassName"] == "high"


def test_when_nobody_runs_the_former_sidecar_it_is_no_longer_admitted(store: ObjectStore) -> None:
    assert run(["upgrade", "--yes"]) == ExitCode.SUCCESS
    assert read_settings(store)["TOUCHMARK_SIDECAR_IMAGE"] == "r/sidecar:0.2.0"


def test_the_same_again_changes_nothing_and_asks_nobody(store: ObjectStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["upgrade", "--yes"]) == ExitCode.SUCCESS
    capsys.readouterr()
    assert run(["upgrade", "--json"]) == ExitCode.SUCCESS
    answer = json.loads(capsys.readouterr().out)
    assert {each["effect"] for each in answer["changes"]} == {"unchanged"}
    assert answer["is_ready"] is True


CHOSEN = ["--node-selector", "disk=ssd", "--pull-secret", "registry"]


def test_what_was_chosen_before_can_be_unset(store: ObjectStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["upgrade", "--yes", *CHOSEN]) == ExitCode.SUCCESS
    pod = store.objects[DEPLOYMENT]["spec"]["template"]["spec"]
    assert (pod["nodeSelector"], pod["imagePullSecrets"]) == ({"disk": "ssd"}, [{"name": "registry"}])
    capsys.readouterr()
    unset = ["--unset", "node-selector", "--unset", "priority-class", "--unset", "pull-secret"]
    assert run(["upgrade", "--yes", *unset]) == ExitCode.SUCCESS
    assert "spec.template.spec.priorityClassName: high → " in capsys.readouterr().out
    pod = store.objects[DEPLOYMENT]["spec"]["template"]["spec"]
    assert not {"nodeSelector", "imagePullSecrets", "priorityClassName"} & pod.keys()
    assert run(["upgrade", "--yes", *unset]) == ExitCode.SUCCESS, "there is nothing left to take away"


def test_what_another_tool_has_written_isnt_said_to_be_unset(
    store: ObjectStore, capsys: pytest.CaptureFixture[str]
) -> None:
    store.objects[DEPLOYMENT]["spec"]["template"]["spec"]["nodeSelector"] = {"disk": "ssd"}
    assert run(["upgrade", "--yes", "--force-conflicts", "--unset", "node-selector"]) == ExitCode.CONFLICT
    assert "another tool has written nodeSelector of the CA's pods" in capsys.readouterr().err
    assert list_writes(store) == []


def test_a_choice_and_its_absence_cant_be_combined(store: ObjectStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["upgrade", "--yes", "--priority-class", "low", "--unset", "priority-class"]) == ExitCode.BAD_INPUT
    assert "can't be combined" in capsys.readouterr().err
    assert list_writes(store) == []


def test_a_trial_and_yaml_change_nothing(store: ObjectStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["upgrade", "--dry-run", "--priority-class", "low"]) == ExitCode.SUCCESS
    assert "priorityClassName: high → low" in capsys.readouterr().out
    assert run(["upgrade", "--output", "yaml"]) == ExitCode.SUCCESS
    printed = list(yaml.safe_load_all(capsys.readouterr().out))
    assert {"r/ca:0.2.0"} == {
        each["spec"]["template"]["spec"]["containers"][0]["image"] for each in printed if each["kind"] == "Deployment"
    }
    assert run(["upgrade"]) == ExitCode.REFUSED, "no terminal, no --yes"
    assert list_writes(store) == []


@pytest.mark.parametrize(("there", "said"), [("0.3.0", "an older CA"), ("0.0.1", "")])
def test_a_downgrade_and_a_jump_are_refused(
    store: ObjectStore, capsys: pytest.CaptureFixture[str], there: str, said: str
) -> None:
    image = f"r/ca:{there}" if said else "r/ca:9.0.0"
    store.objects[DEPLOYMENT]["spec"]["template"]["spec"]["containers"][0]["image"] = image
    assert run(["upgrade", "--yes", "--json"]) == ExitCode.CHECK_FAILED
    error = json.loads(capsys.readouterr().err)
    assert error["code"] == "preflight_failed"
    assert said in error["message"]
    assert list_writes(store) == []


def test_a_release_that_an_image_doesn_t_say_is_asked_of_the_ca(
    store: ObjectStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = "r/ca@sha256:" + "ab" * 32
    store.objects[DEPLOYMENT]["spec"]["template"]["spec"]["containers"][0]["image"] = digest
    command = ["upgrade", "--yes", "--json", "--image", "r/ca@sha256:" + "cd" * 32]
    assert run(command) == ExitCode.CHECK_FAILED, "nobody knows what is there"
    assert "nor does the CA say it" in json.loads(capsys.readouterr().err)["hint"]
    with running_ca(tmp_path) as fake:
        answer_all(fake)
        pod = make_pod("touchmark-ca-0", metadata={"labels": {"app.kubernetes.io/name": "touchmark-ca"}})
        store.objects["/api/v1/namespaces/touchmark-system/pods/touchmark-ca-0"] = pod
        store.api.forward_to = fake.socket
        assert run(command) == ExitCode.SUCCESS
    assert run(["upgrade", "--yes"]) != ExitCode.SUCCESS, "the next image has to be named"


def test_what_another_tool_owns_stops_it_before_anything_changes(
    store: ObjectStore, capsys: pytest.CaptureFixture[str]
) -> None:
    cause = {"reason": "FieldManagerConflict", "message": 'conflict with "kubectl"', "field": ".spec.replicas"}
    store.refused[f"PATCH {DEPLOYMENT}"] = make_status(409, "Conflict", "conflict", causes=[cause])
    assert run(["upgrade", "--yes", "--json"]) == ExitCode.CONFLICT
    assert "--force-conflicts" in json.loads(capsys.readouterr().err)["hint"]
    assert list_writes(store) == []


def test_without_an_installation_it_says_how_to_make_one(api: FakeAPI, capsys: pytest.CaptureFixture[str]) -> None:
    open_store(api)
    assert run(["upgrade", "--yes", "--json"]) == ExitCode.UNAVAILABLE
    error = json.loads(capsys.readouterr().err)
    assert error["code"] == "not_installed"
    assert "touchmark install" in error["hint"]


def test_a_ca_that_doesn_t_come_up_is_said(store: ObjectStore, capsys: pytest.CaptureFixture[str]) -> None:
    store.has_controllers = False
    store.objects[DEPLOYMENT]["status"] = {}
    assert run(["upgrade", "--yes", "--timeout", "0.01"]) == ExitCode.DEADLINE
    assert "its CA isn't ready" in capsys.readouterr().out
    assert run(["upgrade", "--yes", "--no-wait"]) == ExitCode.SUCCESS
