"""What `touchmark install` applies is what `kubectl apply -k` applies."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.cluster.installation.bundle import CLUSTER_SCOPED, load_objects
from cli.cluster.installation.choices import Choices
from cli.cluster.installation.rendering import render
from scripts.chart.__main__ import MANIFESTS, build


def by_name(documents: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    for each in documents:
        if each["kind"] in CLUSTER_SCOPED:  # Kustomize doesn't know that of every kind.
            each["metadata"].pop("namespace", None)
    return {f"{each['kind']} {each['metadata']['name']}": each for each in documents}


@pytest.mark.parametrize(("overlay", "secret"), [("single", ""), ("ha", "touchmark-database")])
def test_what_the_command_applies_is_what_kustomize_builds(overlay: str, secret: str) -> None:
    ours = render(load_objects(has_database=bool(secret)), Choices(database_secret=secret))
    assert by_name(ours) == by_name(build(f"overlays/{overlay}"))


def test_settings_are_named_as_kustomize_names_them(tmp_path: Path) -> None:
    """Whoever goes from the command to an overlay or back changes no pod."""
    overlay = {
        "resources": [os.path.relpath(MANIFESTS / "overlays/single", tmp_path.resolve())],
        "namespace": "touchmark-system",
        "configMapGenerator": [
            {
                "name": "touchmark-settings",
                "behavior": "merge",
                "literals": ["TOUCHMARK_SIDECAR_IMAGE=r/s:2,r/s:1", "TOUCHMARK_TRUST_DOMAIN=example.org"],
            }
        ],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay), encoding="utf-8")
    choices = Choices(sidecar_images=("r/s:2", "r/s:1"), trust_domain="example.org")
    assert by_name(render(load_objects(has_database=False), choices)) == by_name(build(str(tmp_path)))
