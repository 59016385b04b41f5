"""The Helm chart is what the manifests make it, to Helm as well. (``test_cli_install.py`` has a real API server.)"""

from __future__ import annotations

import copy
import os
import re
from pathlib import Path
from typing import Any

import pytest

from scripts.chart import rendering
from scripts.chart.__main__ import CHART, MANIFESTS, build, find_differences, find_rendered_differences
from scripts.chart.templates import make_templates, normalise
from tests.kubernetes.harness.helm import find_helm, run_helm


@pytest.fixture(scope="module")
def single() -> list[dict[str, Any]]:
    return build("overlays/single")


def test_the_chart_is_made_from_the_manifests() -> None:
    """``python -m scripts.chart`` writes it again; ``--render HELM`` compares what Helm makes of it."""
    assert find_differences() == []


def test_a_change_of_a_manifest_is_one_of_the_chart_too(single: list[dict[str, Any]]) -> None:
    changed = copy.deepcopy(single)
    [service] = [each for each in changed if each["kind"] == "Service"]
    service["spec"]["ports"][0]["port"] = 1
    before, after = make_templates(single, single, []), make_templates(single, changed, [])
    assert "if .Values.database.secret" not in before["service-touchmark-ca.yaml"]
    assert "if .Values.database.secret" in after["service-touchmark-ca.yaml"]
    [named] = [name for name in before if before[name] != after[name]]
    assert named == "service-touchmark-ca.yaml"
    braced = copy.deepcopy(single)
    braced[1]["metadata"]["labels"] = {"a": "{{ b }}"}
    with pytest.raises(ValueError, match="braces"):
        make_templates(braced, braced, [])


def test_a_rendered_object_that_differs_or_is_missing_is_named(single: list[dict[str, Any]]) -> None:
    """The comparison itself: what Helm rendered is played by what Kustomize built."""
    rendered = [each for each in single if each["kind"] != "Namespace"]
    assert rendering.compare(rendered, single, namespace="touchmark-system") == []
    changed = copy.deepcopy(rendered)
    [deployment] = [each for each in changed if each["kind"] == "Deployment"]
    deployment["spec"]["replicas"] = 2
    assert rendering.compare(changed[1:], single, namespace="touchmark-system") == [
        f"{changed[0]['kind']} {changed[0]['metadata']['name']}: only one has it",
        "Deployment touchmark-ca: differs",
    ]
    assert rendering.compare(rendered, single, namespace="mesh"), "another namespace isn't ours"


def test_the_manifests_work_in_a_namespace_of_any_name(tmp_path: Path) -> None:
    """With the overlay that the how-to shows, they name ours nowhere."""
    page = (MANIFESTS.parent / "docs/how-to/kubernetes.md").read_text(encoding="utf-8")
    [overlay] = [each for each in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "replacements:" in each]
    overlays = Path(os.path.relpath(MANIFESTS / "overlays/single", tmp_path.resolve()))
    text = overlay.replace("../touchmark/manifests/overlays/single", str(overlays))
    (tmp_path / "kustomization.yaml").write_text(text, encoding="utf-8")
    built = build(str(tmp_path))
    assert not [each["kind"] for each in built if "touchmark-system" in str(normalise(each))]
    rendered = [each for each in built if each["kind"] != "Namespace"]
    assert rendering.compare(rendered, build("overlays/single"), namespace="mesh") == []


def test_helm_renders_each_object_as_kustomize_builds_it(tmp_path: Path) -> None:
    """Both overlays, in our namespace and in another one."""
    run_helm(tmp_path, "lint", "--strict", str(CHART))
    assert find_rendered_differences(find_helm()) == []
