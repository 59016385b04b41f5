"""The command carries the objects that the manifests make."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cli.cluster.installation.bundle import CLUSTER_SCOPED, KINDS, OURS, load_objects
from cli.cluster.preflight.questions import INSTALLED

MANIFESTS = Path(__file__).parents[4] / "manifests"


@pytest.mark.parametrize("has_database", [False, True])
def test_every_object_is_of_a_known_kind_and_ours_by_its_label(has_database: bool) -> None:
    objects = load_objects(has_database=has_database)
    key, _, value = OURS.partition("=")
    for each in objects:
        kind = KINDS[each["kind"]]
        assert each["apiVersion"] == (f"{kind.group}/{kind.version}" if kind.group else kind.version)
        assert ("namespace" in each["metadata"]) == (each["kind"] not in CLUSTER_SCOPED)
        assert each["metadata"]["labels"][key] == value, "uninstall finds it by that"
    kinds = [each["kind"] for each in objects]
    assert kinds[0] == "Namespace"
    assert kinds[-1] == "MutatingWebhookConfiguration", "pods are refused from then on"
    assert ("PersistentVolumeClaim" in kinds) != has_database


def test_each_manifest_s_object_is_in_it() -> None:
    """Without Kustomize only names can be compared; ``test_chart.py`` of the Kubernetes level compares the files."""
    files = [*MANIFESTS.glob("base/*.yaml"), *MANIFESTS.glob("crds/*.yaml"), *MANIFESTS.glob("overlays/*/*.yaml")]
    written = {
        (each["kind"], each["metadata"]["name"])
        for file in files
        for each in yaml.safe_load_all(file.read_text(encoding="utf-8"))
        if each["kind"] != "Kustomization"
    }
    carried = {
        (each["kind"], each["metadata"]["name"])
        for has_database in (False, True)
        for each in load_objects(has_database=has_database)
    }
    assert carried == written | {("ConfigMap", "touchmark-settings")}


def test_the_preflight_asks_for_the_right_to_make_each_kind() -> None:
    asked = {(group, plural) for group, plural, _ in INSTALLED}
    assert asked == {(kind.group, kind.plural) for kind in KINDS.values()}
