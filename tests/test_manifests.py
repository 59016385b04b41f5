"""The manifests are YAML: that the API server takes them, `make test-kubernetes` proves."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from shared.model.injection.containers import make_capture_container, make_sidecar_container
from shared.model.injection.settings import Settings
from tests.shared.model.injection.golden_injection import OPTIONS

ROOT = Path(__file__).parents[1]


# A chart's templates are YAML when Helm has filled them (tests/kubernetes/test_chart.py).
MANIFESTS = sorted(path for path in ROOT.glob("manifests/**/*.yaml") if path.parent.name != "templates")


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_manifest_is_read(path: Path) -> None:
    documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    assert documents
    assert all(isinstance(each, dict) for each in documents)


def test_openshifts_constraints_allow_what_injection_adds_and_nothing_else() -> None:
    """They aren't run against OpenShift: at least they follow the containers."""
    containers = [make_capture_container(Settings(), OPTIONS), make_sidecar_container(Settings(), OPTIONS, ())]
    added = {each for container in containers for each in container["securityContext"]["capabilities"]["add"]}
    text = (ROOT / "manifests/openshift/security-context-constraints.yaml").read_text(encoding="utf-8")
    constraints, role = yaml.safe_load_all(text)
    assert set(constraints["allowedCapabilities"]) == added
    assert not any(value for name, value in constraints.items() if name.startswith("allow") and value is True)
    assert role["rules"][0]["resourceNames"] == [constraints["metadata"]["name"]]
