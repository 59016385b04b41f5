"""``touchmark policy export``: YAML on standard output, losses on standard error, an exit code for scripts."""

from __future__ import annotations

import re
import shlex

import msgspec
import pytest
import yaml

from cli.main import run
from cli.text.exit_codes import ExitCode
from shared.model.policy.rules import Mode, NamespaceState
from shared.model.wire.admin import IdentityList, NamespaceList, SidecarList
from tests.cli.export.world import PODS, STATES
from tests.cli.fake_api import FakeAPI
from tests.cli.fake_ca import FakeCA
from tests.cli.observations import OBSERVATION

ALL = NamespaceList(namespaces=tuple(STATES.values()))


def test_losses_are_on_standard_error_and_in_the_exit_code(
    cluster_ca: FakeCA, api: FakeAPI, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster_ca.answers["GET /v1/namespaces"] = ALL
    api.answers["GET /api/v1/pods"] = {"items": PODS}
    assert run(["policy", "export", "networkpolicy", "shop", "-k"]) == ExitCode.CHECK_FAILED
    printed = capsys.readouterr()
    objects = [each for each in yaml.safe_load_all(printed.out) if each]
    assert {each["kind"] for each in objects} == {"NetworkPolicy"}
    assert "looser: shop/nobody: " in printed.err


def test_without_a_cluster_labels_can_be_given(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    ca.answers["GET /v1/namespaces"] = ALL
    arguments = ["policy", "export", "istio", "shop", "--pods", "shop/web:app=web", "--json"]
    assert run(arguments) == ExitCode.CHECK_FAILED
    found = msgspec.json.decode(capsys.readouterr().out)
    assert {"matchLabels": {"app": "web"}} in [each["spec"].get("selector") for each in found["objects"]]
    assert any("shop/db has no pod" in each["message"] for each in found["losses"])


def test_nothing_lost_is_success(ca: FakeCA, capsys: pytest.CaptureFixture[str]) -> None:
    ca.answers["GET /v1/namespaces"] = NamespaceList(namespaces=(NamespaceState(namespace="a", mode=Mode.EXPLICIT),))
    assert run(["policy", "export", "cilium"]) == ExitCode.SUCCESS
    assert "touchmark-default" in capsys.readouterr().out


def test_a_namespace_that_isnt_known_is_told_with_the_command_that_lists_them(
    ca: FakeCA, capsys: pytest.CaptureFixture[str]
) -> None:
    ca.answers["GET /v1/namespaces"] = ALL
    assert run(["policy", "export", "cilium", "nowhere"]) == ExitCode.NOT_FOUND
    [command] = re.findall("`touchmark (.*?)`", capsys.readouterr().err)
    ca.answers["GET /v1/status"] = OBSERVATION.ca
    ca.answers["GET /readyz"] = OBSERVATION.health
    ca.answers["GET /v1/sidecars"] = SidecarList(sidecars=())
    ca.answers["GET /v1/identities"] = IdentityList(identities=())
    run(shlex.split(command))
    assert "bank" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["nothing"], ["istio", "not a namespace"], ["istio", "a", "--pods", "x"]])
def test_bad_input_is_refused_before_anything_is_asked(arguments: list[str]) -> None:
    assert run(["policy", "export", *arguments]) == ExitCode.BAD_INPUT
