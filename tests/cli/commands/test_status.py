"""Status: a line, a table, and what is wrong; locally and in a cluster."""

from __future__ import annotations

import msgspec
import pytest

from cli.main import run
from cli.text.exit_codes import ExitCode
from shared.model.policy.modes import make_modes
from shared.model.policy.rules import Mode
from shared.model.version import VERSION
from shared.model.wire.admin import IdentityList, NamespaceList, SidecarList
from tests.cli.fake_ca import FakeCA
from tests.cli.observations import CLUSTER, OBSERVATION, change_sidecar


def answer_all(ca: FakeCA) -> None:
    ca.answers["GET /v1/status"] = OBSERVATION.ca
    ca.answers["GET /readyz"] = OBSERVATION.health
    ca.answers["GET /v1/sidecars"] = SidecarList(sidecars=OBSERVATION.sidecars)
    ca.answers["GET /v1/namespaces"] = NamespaceList(namespaces=OBSERVATION.namespaces)
    ca.answers["GET /v1/identities"] = IdentityList(identities=OBSERVATION.identities)


def test_locally_nothing_of_a_cluster_is_asked_or_shown(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    answer_all(ca)
    assert run(["status"]) == ExitCode.SUCCESS
    printed = capsys.readouterr().out
    assert (
        f"touchmark.local: CA {VERSION}, sidecars {VERSION}; 1 of 1 connected; trust bundle 4; rotation: none"
        in printed
    )
    assert "INJECTED" not in printed
    assert "✓ no problems found" in printed
    assert not ca.asked("GET /v1/cluster")


def test_in_a_cluster_pods_are_counted(cluster_ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    answer_all(cluster_ca)
    cluster_ca.answers["GET /v1/cluster"] = CLUSTER
    assert run(["status", "-k", "--json"]) == ExitCode.SUCCESS
    answer = msgspec.json.decode(capsys.readouterr().out)
    assert answer["is_well"] is True
    assert answer["versions"] == {"command": VERSION, "ca": VERSION, "sidecars": {VERSION: 1}}
    [row] = answer["namespaces"]
    assert (row["namespace"], row["mode"], row["injected"], row["not_injected"]) == ("shop", "explicit", 1, 0)
    assert run(["status", "-k"]) == ExitCode.SUCCESS
    assert "NOT INJECTED" in capsys.readouterr().out


def test_a_ca_that_doesn_t_know_the_question_is_no_fault(cluster_ca: FakeCA) -> None:
    answer_all(cluster_ca)
    assert run(["status", "-k"]) == ExitCode.SUCCESS


def test_what_is_wrong_ends_with_3(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    answer_all(ca)
    ca.answers["GET /v1/sidecars"] = SidecarList(sidecars=(change_sidecar(installed_sequence=1),))
    assert run(["status"]) == ExitCode.CHECK_FAILED
    assert "✗ trust bundle: number 4 isn't installed in web-1.abcdef01 (shop/web)" in capsys.readouterr().out


def test_mixed_versions_are_marked_and_end_with_0(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    answer_all(ca)
    ca.answers["GET /v1/sidecars"] = SidecarList(sidecars=(change_sidecar(version="0.1.9"),))
    assert run(["status"]) == ExitCode.SUCCESS
    printed = capsys.readouterr().out
    assert "sidecars 0.1.9 (mixed)" in printed
    assert "– versions" in printed


def test_workloads_with_a_mode_of_their_own_are_named(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    answer_all(ca)
    modes = make_modes({"web": Mode.PERMISSIVE})
    state = msgspec.structs.replace(OBSERVATION.namespaces[0], workload_modes=modes)
    ca.answers["GET /v1/namespaces"] = NamespaceList(namespaces=(state,))
    assert run(["status"]) == ExitCode.SUCCESS
    assert "explicit (web permissive)" in capsys.readouterr().out
