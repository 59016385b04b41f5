"""The webhook's work on files: what asked is injected, everything else passes, a refusal prints nothing."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.main import run
from cli.text.exit_codes import ExitCode
from tests.shared.model.injection.pods import make_pod

SERVICE = "# of the service\napiVersion: v1\nkind: Service\nmetadata: {name: web}\n"
DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  template:
    metadata: {annotations: {touchmark.dev/inject: "true"}}
    spec:
      containers: [{name: web, image: "web:1"}]
"""
SILENT = DEPLOYMENT.replace('{annotations: {touchmark.dev/inject: "true"}}', "{}").replace(
    "name: web}\nspec", "name: api}\nspec"
)
REFUSED = DEPLOYMENT.replace("spec:\n      containers", "spec:\n      hostNetwork: true\n      containers")
IMAGE = "registry.example/touchmark-sidecar:1"


def inject(tmp_path: Path, text: str, *arguments: str) -> int:
    file = tmp_path / "f.yaml"
    file.write_text(text)
    return run(["inject", "-f", str(file), "--sidecar-image", IMAGE, *arguments])


def test_what_asks_is_injected_and_the_rest_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inject(tmp_path, f"{SERVICE}---\n{DEPLOYMENT}---\n{SILENT}") == ExitCode.SUCCESS
    printed = capsys.readouterr()
    assert printed.out.startswith(SERVICE)
    assert printed.out.endswith(SILENT)
    _, deployment, silent = yaml.safe_load_all(printed.out)
    sidecar = deployment["spec"]["template"]["spec"]["initContainers"][1]
    assert sidecar["image"] == IMAGE
    assert "touchmark-ca.touchmark-system.svc:15443" in sidecar["args"]
    assert "initContainers" not in silent["spec"]["template"]["spec"]
    assert "1 of 2 injected, 1 didn't ask" in printed.err
    assert "--all" in printed.err


def test_standard_input_and_options_are_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(SILENT))
    monkeypatch.setenv("TOUCHMARK_SIDECAR_IMAGE", IMAGE)
    options = ["--ca", "ca.example:1", "--trust-domain", "example.org", "--pull-policy", "Never", "--all"]
    assert run(["inject", "-f", "-", *options]) == ExitCode.SUCCESS
    _, sidecar = yaml.safe_load(capsys.readouterr().out)["spec"]["template"]["spec"]["initContainers"]
    assert {"ca.example:1", "example.org"} <= set(sidecar["args"])
    assert sidecar["imagePullPolicy"] == "Never"


def test_what_was_injected_comes_out_as_it_went_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inject(tmp_path, DEPLOYMENT)
    once = capsys.readouterr().out
    assert inject(tmp_path, once) == ExitCode.SUCCESS
    assert capsys.readouterr().out == once


def test_a_refusal_names_its_place_and_prints_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inject(tmp_path, f"{DEPLOYMENT}---\n{REFUSED}") == ExitCode.REFUSED
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "f.yaml:10 Deployment/web spec.template: host_network: spec.hostNetwork:" in printed.err
    assert "hint: " in printed.err
    assert "1 of 2 can't be injected" in printed.err


def test_a_namespace_that_is_never_injected_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inject(tmp_path, DEPLOYMENT, "-n", "kube-system") == ExitCode.REFUSED
    assert "system_namespace" in capsys.readouterr().err


def test_check_says_what_would_be_refused_and_prints_no_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert inject(tmp_path, DEPLOYMENT, "--check") == ExitCode.SUCCESS
    assert inject(tmp_path, f"{DEPLOYMENT}---\n{REFUSED}", "--check") == ExitCode.CHECK_FAILED
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "1 of 2 injected, 1 refused" in printed.err
    assert inject(tmp_path, f"{SILENT}---\n{REFUSED}", "--check", "--json") == ExitCode.CHECK_FAILED
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert [each["code"] for each in report["refused"]] == ["host_network"]
    assert (len(report["injected"]), len(report["not_asked"])) == (0, 1)


def test_json_is_one_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inject(tmp_path, f"{SERVICE}---\n{DEPLOYMENT}", "--json") == ExitCode.SUCCESS
    document = json.loads(capsys.readouterr().out)
    assert [item["kind"] for item in document["items"]] == ["Service", "Deployment"]


def test_lists_that_nest_too_deeply_are_refused(tmp_path: Path) -> None:
    document: dict[str, Any] = {"apiVersion": "v1", "kind": "List", "items": []}
    for _ in range(6):
        document = {"apiVersion": "v1", "kind": "List", "items": [document]}
    assert inject(tmp_path, json.dumps(document)) == ExitCode.REFUSED


def test_warnings_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inject(tmp_path, json.dumps(make_pod(dnsPolicy="Default"))) == ExitCode.SUCCESS
    assert "dnsPolicy Default" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--ca", "nowhere"], DEPLOYMENT),
        (["--ca", "ca:0"], DEPLOYMENT),
        (["--pull-policy", "Maybe"], DEPLOYMENT),
        (["--trust-domain", "No!"], DEPLOYMENT),
        ([], "a: ["),
    ],
)
def test_what_cannot_be_used_is_bad_input(tmp_path: Path, arguments: list[str], text: str) -> None:
    assert inject(tmp_path, text, *arguments) == ExitCode.BAD_INPUT


def test_files_that_cannot_be_read_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inject", "-f", str(tmp_path / "none"), "--sidecar-image", IMAGE]) == ExitCode.BAD_INPUT
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    assert run(["inject", "-f", str(tmp_path / "binary"), "--sidecar-image", IMAGE]) == ExitCode.BAD_INPUT
    assert "binary isn't UTF-8" in capsys.readouterr().err


PROBED = DEPLOYMENT.replace('image: "web:1"', 'image: "web:1", livenessProbe: {tcpSocket: {port: 80}}')


def read_probe_path(printed: str) -> str:
    path: str = yaml.safe_load(printed)["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]["httpGet"]["path"]
    return path


def test_a_given_secret_makes_repeated_runs_print_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secret = tmp_path / "secret"
    secret.write_text("0f" * 16 + "\n")
    assert inject(tmp_path, PROBED, "--probe-secret-file", str(secret)) == ExitCode.SUCCESS
    assert read_probe_path(capsys.readouterr().out) == f"/probe/{'0f' * 16}/web/liveness"
    paths = set()
    for _ in range(2):
        assert inject(tmp_path, PROBED) == ExitCode.SUCCESS
        paths.add(read_probe_path(capsys.readouterr().out))
    assert len(paths) == 2
    secret.write_text("guess")
    assert inject(tmp_path, PROBED, "--probe-secret-file", str(secret)) == ExitCode.BAD_INPUT
    assert "openssl rand -hex 16" in capsys.readouterr().err


NAMESPACE = """\
apiVersion: v1
kind: Namespace
metadata: {name: shop, annotations: {touchmark.dev/log-level: debug, touchmark.dev/drain-seconds: "5 s"}}
"""


def test_a_namespace_in_the_stream_gives_its_defaults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inject(tmp_path, f"{NAMESPACE}---\n{DEPLOYMENT}", "-n", "shop") == ExitCode.SUCCESS
    printed = capsys.readouterr()
    _, deployment = yaml.safe_load_all(printed.out)
    assert deployment["spec"]["template"]["spec"]["initContainers"][1]["args"][-2:] == ["--log-level", "debug"]
    assert "not applied from the namespace shop" in printed.err
    inject(tmp_path, f"{NAMESPACE}---\n{DEPLOYMENT}", "-n", "other")
    assert "--log-level" not in capsys.readouterr().out


def test_explain_lists_each_setting_with_its_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = f"{NAMESPACE}---\n{DEPLOYMENT}"
    assert inject(tmp_path, text, "-n", "shop", "--explain", "--json") == ExitCode.SUCCESS
    [pod] = json.loads(capsys.readouterr().out)["pods"]
    assert (pod["namespace"], len(pod["faults"])) == ("shop", 1)
    told = {each["annotation"]: each for each in pod["settings"]}
    level = {"value": "debug", "source": "namespace", "takes": "debug, info, warning, error"}
    assert told["log-level"] == {"annotation": "log-level", **level}
    assert (told["sidecar-memory"]["value"], told["sidecar-memory"]["source"]) == ("64Mi", "built-in")
    assert inject(tmp_path, text, "-n", "shop", "--explain") == ExitCode.SUCCESS
    printed = capsys.readouterr().out
    assert "log-level" in printed and "kind: Deployment" not in printed
    rows = [line.split() for line in printed.splitlines()]
    assert ["mtls-ports", "-", "built-in", "ports,", "as", "in", "9090,9100"] in rows, "no value is blank"
    assert ["drain-seconds", "20", "built-in", "0", "to", "3600"] in rows
    assert inject(tmp_path, REFUSED, "--explain") == ExitCode.CHECK_FAILED


def test_a_namespace_without_its_shape_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, annotations: {touchmark.dev/drain-seconds: 5}}\n"
    assert inject(tmp_path, f"{odd}---\n{DEPLOYMENT}") == ExitCode.REFUSED
    assert "malformed_pod" in capsys.readouterr().err


def test_settings_are_explained_without_an_image_and_nothing_is_injected_without_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TOUCHMARK_SIDECAR_IMAGE", raising=False)
    file = tmp_path / "f.yaml"
    file.write_text(DEPLOYMENT)
    assert run(["inject", "-f", str(file), "--explain"]) == ExitCode.SUCCESS
    assert "drain-seconds" in capsys.readouterr().out
    assert run(["inject", "-f", str(file)]) == ExitCode.BAD_INPUT
    assert "--sidecar-image" in capsys.readouterr().err
    file.write_text(SILENT)
    assert run(["inject", "-f", str(file), "--explain"]) == ExitCode.SUCCESS
    assert "--all includes" in capsys.readouterr().out
