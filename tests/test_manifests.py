"""The manifests are YAML: that the API server takes them, `make test-kubernetes` proves."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("path", sorted(ROOT.glob("manifests/**/*.yaml")), ids=lambda path: str(path.relative_to(ROOT)))
def test_each_manifest_is_read(path: Path) -> None:
    documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    assert documents
    assert all(isinstance(each, dict) for each in documents)
