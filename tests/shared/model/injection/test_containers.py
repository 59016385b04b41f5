from __future__ import annotations

import copy
from typing import Any

import pytest

from shared.model.errors import InputError
from shared.model.injection.containers import (
    InjectionOptions,
    is_unchanged,
    make_capture_container,
    make_sidecar_container,
    make_volumes,
)
from shared.model.injection.settings import Settings
from tests.shared.model.injection.golden_injection import OPTIONS
from tests.shared.model.injection.pods import Json, default

SETTINGS = Settings(exclude_outbound_ports=(53, 853), log_level="debug", cpu_request="0.5")


def _sidecar() -> Json:
    return make_sidecar_container(SETTINGS, OPTIONS, ())


@pytest.mark.parametrize(
    "make", [lambda: make_capture_container(SETTINGS, OPTIONS), _sidecar], ids=["capture", "sidecar"]
)
def test_each_container_has_its_capabilities_and_nothing_else(make: Any) -> None:
    container = make()
    security = container["securityContext"]
    is_capture = container["name"] == "touchmark-capture"
    added = ["NET_ADMIN"] if is_capture else ["SYS_PTRACE", "DAC_READ_SEARCH"]
    assert security["capabilities"] == {"drop": ["ALL"], "add": added}
    assert (security["runAsUser"], security["runAsNonRoot"]) == ((0, False) if is_capture else (1337, True))
    assert not security["privileged"]
    assert not security["allowPrivilegeEscalation"]
    assert security["readOnlyRootFilesystem"]
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["image"] == OPTIONS.sidecar_image


def test_only_the_sidecar_mounts_the_token() -> None:
    assert "volumeMounts" not in make_capture_container(SETTINGS, OPTIONS)
    assert [each["name"] for each in _sidecar()["volumeMounts"]] == ["touchmark-token", "touchmark-trust"]
    token, trust = make_volumes(OPTIONS)
    assert token["projected"]["sources"] == [
        {"serviceAccountToken": {"audience": "touchmark-ca", "expirationSeconds": 3600, "path": "token"}}
    ]
    assert trust["configMap"]["optional"] is False


def test_a_pod_whose_connections_wait_has_the_right_to_it_and_the_interpreter_that_uses_it() -> None:
    settings = Settings(holds_connects="always", hold_ports=(514, 601))
    sidecar = make_sidecar_container(settings, OPTIONS, ())
    assert sidecar["securityContext"]["capabilities"]["add"] == ["SYS_PTRACE", "DAC_READ_SEARCH", "NET_ADMIN"]
    assert sidecar["command"] == ["/usr/local/bin/touchmark-python-net-admin", "-m", "sidecar"]
    assert sidecar["args"][-2:] == ["--hold-connects", "always"]
    assert make_capture_container(settings, OPTIONS)["args"][2:] == [
        "--hold-connects", "--hold-port", "514", "--hold-port", "601",
    ]  # fmt: skip
    assert "command" not in _sidecar()
    auto = Settings(holds_connects="auto")
    assert make_sidecar_container(auto, OPTIONS, ())["args"][-2:] == ["--hold-connects", "auto"]
    assert make_capture_container(auto, OPTIONS)["args"][2:] == ["--hold-connects"]


def test_settings_become_arguments() -> None:
    assert make_capture_container(SETTINGS, OPTIONS)["args"][2:] == [
        "--exclude-outbound-port", "53", "--exclude-outbound-port", "853",
    ]  # fmt: skip
    assert _sidecar()["args"][-2:] == ["--log-level", "debug"]
    assert "--log-level" not in make_sidecar_container(Settings(), OPTIONS, ())["args"]
    assert make_sidecar_container(Settings(log_format="cef"), OPTIONS, ())["args"][-2:] == ["--log-format", "cef"]
    assert make_sidecar_container(Settings(workers=2), OPTIONS, ())["args"][-2:] == ["--workers", "2"]


def test_a_container_that_came_back_from_the_api_server_is_unchanged() -> None:
    container = default({"spec": {"initContainers": [_sidecar()]}})["spec"]["initContainers"][0]
    container["resources"]["requests"]["cpu"] = "500m"  # The API server's own spelling of 0.5.
    assert is_unchanged(container, _sidecar())


@pytest.mark.parametrize(
    "change",
    [
        {"image": "registry.example/evil:1"},
        {"command": ["/bin/sh"]},
        {"env": []},
        {"envFrom": [{"configMapRef": {"name": "x"}}]},
        {"securityContext": {"privileged": True}},
        {"resources": {}},
        {"resources": {"requests": {"cpu": "1m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}}},
        {"resources": {"requests": {"cpu": [], "memory": "64Mi"}, "limits": {"memory": "512Mi"}}},
        {"volumeMounts": [{"name": "host", "mountPath": "/host"}]},
        {"volumeMounts": [1]},
        {"restartPolicy": None},
        {"lifecycle": {"postStart": {"exec": {"command": ["x"]}}}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_any_other_difference_makes_it_another_container(change: Json) -> None:
    assert not is_unchanged({**copy.deepcopy(_sidecar()), **change}, _sidecar())


@pytest.mark.parametrize(
    "change",
    [
        {"sidecar_image": ""},
        {"sidecar_image": "a b"},
        {"sidecar_image": "a,b"},
        {"pull_policy": "Sometimes"},
        {"token_lifetime_s": 60},
    ],
)
def test_options_that_cannot_be_used_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        InjectionOptions(**{"sidecar_image": "x", "trust_domain": "example.org", "draw_path_secret": str, **change})
