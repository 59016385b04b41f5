"""Doctor: a line each, and 3 when something needed is missing."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from cli.main import run
from cli.text.exit_codes import ExitCode
from shared.model.policy.rules import Mode, NamespaceState
from shared.model.wire.admin import NamespaceList, SidecarList
from tests.cli.commands.test_status import answer_all
from tests.cli.fake_api import FakeAPI
from tests.cli.fake_ca import FakeCA
from tests.cli.observations import change_sidecar


def test_a_missing_ca_is_a_cross_with_a_hint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--admin-socket", str(tmp_path / "none.sock")]) == ExitCode.CHECK_FAILED
    lines = capsys.readouterr().out.splitlines()
    cross = next(index for index, line in enumerate(lines) if line.startswith("✗ CA"))
    assert "touchmark ca serve" in lines[cross + 1]
    assert any(line.startswith("✓ Python") for line in lines)


def test_json_holds_the_same_findings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["doctor", "--json", "--admin-socket", str(tmp_path / "none.sock")])
    answer = msgspec.json.decode(capsys.readouterr().out)
    assert answer["is_well"] is False
    assert {"subject": "CA", "is_well": False}.items() <= answer["findings"][-1].items()


def test_without_an_api_server_there_is_one_finding(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--cluster"]) == ExitCode.CHECK_FAILED
    assert capsys.readouterr().out.startswith("✗ API server: no kubeconfig")


def test_a_sidecar_whose_clock_differs_is_named_without_a_cluster_too(
    ca: FakeCA, capsys: pytest.CaptureFixture[str]
) -> None:
    answer_all(ca)
    ca.answers["GET /v1/sidecars"] = SidecarList(sidecars=(change_sidecar(clock_offset_s=7200.0),))
    told = "✗ sidecars' clocks: web-1.abcdef01 (shop/web)'s clock is 7200 s ahead of the CA's"
    for command, status in (["doctor"], ExitCode.CHECK_FAILED), (["ca", "status"], ExitCode.SUCCESS):
        assert run(command) == status
        lines = capsys.readouterr().out.splitlines()
        cross = lines.index(told)
        assert "NTP" in lines[cross + 1]
    assert any("+7200 s" in line for line in lines)


def test_a_cluster_is_examined_instead_of_this_machine(
    cluster_ca: FakeCA, api: FakeAPI, capsys: pytest.CaptureFixture[str]
) -> None:
    answer_all(cluster_ca)
    api.answers["GET /version"] = {"gitVersion": "v1.34.4"}
    for option in ("--cluster", "-k"):
        assert run(["doctor", option, "--json"]) == ExitCode.CHECK_FAILED
        subjects = [finding["subject"] for finding in msgspec.json.decode(capsys.readouterr().out)["findings"]]
        assert {"API server", "webhook configuration", "CA's permissions", "trust bundle"} <= set(subjects)
        assert "Python" not in subjects


def test_before_an_uninstallation_it_names_who_would_lose_the_ca(
    ca: FakeCA, capsys: pytest.CaptureFixture[str]
) -> None:
    answer_all(ca)
    ca.answers["GET /v1/namespaces"] = NamespaceList(
        namespaces=(NamespaceState(namespace="bank"), NamespaceState(namespace="shop", mode=Mode.EXPLICIT))
    )
    sidecars = [change_sidecar(instance=f"i{number}") for number in range(4)]
    sidecars += [change_sidecar(instance="b", workload="bank/db"), change_sidecar(instance="gone", live=False)]
    ca.answers["GET /v1/sidecars"] = SidecarList(sidecars=tuple(sidecars))
    assert run(["doctor", "--before-uninstall"]) == ExitCode.CHECK_FAILED
    explicit, first, permissive, second = capsys.readouterr().out.splitlines()
    assert explicit == "✗ namespace shop: explicit, with 4 live sidecars (i0, i1, i2, …)"
    assert "touchmark mode shop permissive" in first
    assert permissive == "✗ namespace bank: permissive, with 1 live sidecar (b)"
    assert "touchmark mode" not in second
    ca.answers["GET /v1/sidecars"] = SidecarList(sidecars=(change_sidecar(live=False),))
    assert run(["doctor", "--before-uninstall"]) == ExitCode.SUCCESS
    assert capsys.readouterr().out == "✓ sidecars: none is left: nothing breaks\n"
