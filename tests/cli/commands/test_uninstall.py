"""`touchmark uninstall`: refuses while somebody needs the CA, keeps state and policies, and deletes the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.main import run
from cli.text.exit_codes import ExitCode
from shared.model.policy.rules import Mode, NamespaceState
from shared.model.wire.admin import NamespaceList, SidecarList
from tests.cli.fake_api import FakeAPI, make_pod, make_status
from tests.cli.fake_ca import running_ca
from tests.cli.object_store import ObjectStore, add_member, open_store
from tests.cli.observations import change_sidecar

SYSTEM = "/api/v1/namespaces/touchmark-system"
DEPLOYMENT = "/apis/apps/v1/namespaces/touchmark-system/deployments/touchmark-ca"
POLICY = "/apis/touchmark.dev/v1alpha1/namespaces/shop/meshpolicies/default"


@pytest.fixture
def store(api: FakeAPI, capsys: pytest.CaptureFixture[str]) -> ObjectStore:
    """A cluster with an installation, whose CA has made its key."""
    store = open_store(api)
    assert run(["install", "--yes"]) == 0
    store.objects[f"{SYSTEM}/secrets/touchmark-kek"] = {"kind": "Secret", "metadata": {"name": "touchmark-kek"}}
    capsys.readouterr()
    return store


def test_state_and_policies_are_kept_and_a_new_installation_uses_them(
    store: ObjectStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["uninstall", "--yes"]) == ExitCode.SUCCESS
    out = capsys.readouterr().out
    assert "Touchmark is uninstalled from touchmark-system" in out
    assert "store and key are kept" in out
    assert "policies and programs are kept" in out
    assert store.list_kinds() == ["CustomResourceDefinition", "Namespace", "None", "PersistentVolumeClaim", "Secret"]
    assert run(["install", "--yes"]) == ExitCode.SUCCESS
    assert "✓ store from before" in capsys.readouterr().err


def test_nobody_says_that_all_is_gone_who_didnt_wait(store: ObjectStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["uninstall", "--yes", "--no-wait"]) == ExitCode.SUCCESS
    out = capsys.readouterr().out
    assert "is deleted from touchmark-system; nobody waited" in out
    assert "is uninstalled" not in out


def test_with_both_options_nothing_is_left(store: ObjectStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["uninstall", "--yes", "--delete-data", "--delete-policies", "--json"]) == ExitCode.SUCCESS
    answer = json.loads(capsys.readouterr().out)
    assert (answer["kept"], answer["foreign"], answer["remaining"], answer["is_applied"]) == ([], [], [], True)
    assert answer["deleted"][-1] == {"kind": "Namespace", "namespace": "", "name": "touchmark-system"}
    assert store.list_kinds() == ["None"], "a node and a storage class"
    assert run(["uninstall", "--yes", "--json"]) == ExitCode.UNAVAILABLE
    assert json.loads(capsys.readouterr().err)["code"] == "not_installed"


def test_while_pods_have_a_sidecar_it_says_how_they_leave(
    store: ObjectStore, capsys: pytest.CaptureFixture[str]
) -> None:
    add_member(store, "shop", "web")
    add_member(store, "bank", "db")
    store.objects[POLICY] = {"metadata": {"name": "default", "namespace": "shop"}, "spec": {"mode": "explicit"}}
    assert run(["uninstall", "--yes"]) == ExitCode.CHECK_FAILED
    out, err = capsys.readouterr()
    explicit, hint, permissive, _ = out.splitlines()
    assert explicit == "✗ namespace shop: explicit, with 1 live sidecar (web)"
    assert "touchmark mode shop permissive" in hint
    assert permissive == "✗ namespace bank: permissive, with 1 live sidecar (db)"
    assert "error[still_needed]" in err
    assert "--force" in err
    assert store.deleted == []
    assert run(["uninstall", "--dry-run"]) == ExitCode.SUCCESS, "a trial shows both"
    assert store.deleted == []
    assert run(["uninstall", "--yes", "--force"]) == ExitCode.SUCCESS
    assert store.deleted


def test_sidecars_of_machines_are_asked_of_the_ca(
    store: ObjectStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running_ca(tmp_path) as fake:
        fake.answers["GET /v1/namespaces"] = NamespaceList(
            namespaces=(NamespaceState(namespace="machines", mode=Mode.EXPLICIT),)
        )
        fake.answers["GET /v1/sidecars"] = SidecarList(
            sidecars=(change_sidecar(instance="vm", workload="machines/db"),)
        )
        pod = make_pod("touchmark-ca-0", metadata={"labels": {"app.kubernetes.io/name": "touchmark-ca"}})
        store.objects[f"{SYSTEM}/pods/touchmark-ca-0"] = pod
        store.api.forward_to = fake.socket
        assert run(["uninstall", "--yes", "--json"]) == ExitCode.CHECK_FAILED
    error = json.loads(capsys.readouterr().err)
    assert error["code"] == "still_needed"
    assert "namespace machines (explicit, with 1 live sidecar (vm))" in error["message"]
    assert store.deleted == []


def test_a_workload_that_is_explicit_by_its_own_mode_is_named(
    store: ObjectStore, capsys: pytest.CaptureFixture[str]
) -> None:
    add_member(store, "shop", "db")
    spec = {"mode": "permissive", "workloadModes": {"db": "explicit"}}
    store.objects[POLICY] = {"metadata": {"name": "default", "namespace": "shop"}, "spec": spec}
    assert run(["uninstall", "--yes"]) == ExitCode.CHECK_FAILED
    found, hint = capsys.readouterr().out.splitlines()
    assert found == "✗ namespace shop: explicit, with 1 live sidecar (db)"
    assert "`touchmark mode shop permissive --workload db`" in hint


def test_a_ca_that_runs_and_may_not_be_asked_isn_t_deleted(
    store: ObjectStore, capsys: pytest.CaptureFixture[str]
) -> None:
    """Machines may need it: only who says --force goes on without knowing."""
    pod = make_pod("touchmark-ca-0", metadata={"labels": {"app.kubernetes.io/name": "touchmark-ca"}})
    store.objects[f"{SYSTEM}/pods/touchmark-ca-0"] = pod
    store.api.forward_status = 403
    assert run(["uninstall", "--yes", "--json"]) == ExitCode.CHECK_FAILED
    assert json.loads(capsys.readouterr().err)["code"] == "still_needed"
    assert store.deleted == []
    assert run(["uninstall", "--yes", "--force"]) == ExitCode.SUCCESS
    assert "can't be asked" in capsys.readouterr().err


def test_without_a_terminal_nobody_has_agreed(store: ObjectStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["uninstall"]) == ExitCode.REFUSED
    assert "--yes" in capsys.readouterr().err
    assert store.deleted == []


def test_who_may_not_delete_all_of_it_deletes_nothing(store: ObjectStore, capsys: pytest.CaptureFixture[str]) -> None:
    store.refused[f"DELETE {DEPLOYMENT}"] = make_status(403, "Forbidden", "you cannot delete deployments")
    assert run(["uninstall", "--yes", "--json"]) == ExitCode.REFUSED
    assert json.loads(capsys.readouterr().err)["code"] == "forbidden"
    assert store.deleted == [], "the webhook would have gone first"


def test_what_isn_t_gone_in_time_is_named(store: ObjectStore, capsys: pytest.CaptureFixture[str]) -> None:
    store.holds.add(DEPLOYMENT)
    assert run(["uninstall", "--yes", "--timeout", "0.01"]) == ExitCode.DEADLINE
    assert "✗ Deployment touchmark-ca in touchmark-system" in capsys.readouterr().err
    assert run(["uninstall", "--yes", "--no-wait"]) == ExitCode.SUCCESS


def test_a_namespace_with_something_else_in_it_stays(store: ObjectStore, capsys: pytest.CaptureFixture[str]) -> None:
    store.objects[f"{SYSTEM}/secrets/own"] = {"kind": "Secret", "metadata": {"name": "own"}}
    assert run(["uninstall", "--yes", "--delete-data"]) == ExitCode.SUCCESS
    assert "the namespace stays, for what else is in it: Secret own" in capsys.readouterr().out
    assert SYSTEM in store.objects


def test_helm_s_release_is_helm_s(store: ObjectStore, capsys: pytest.CaptureFixture[str]) -> None:
    store.objects[DEPLOYMENT]["metadata"]["annotations"] = {"meta.helm.sh/release-name": "mesh"}
    assert run(["uninstall", "--yes", "--json"]) == ExitCode.CONFLICT
    assert "helm uninstall mesh" in json.loads(capsys.readouterr().err)["hint"]
    assert store.deleted == []
