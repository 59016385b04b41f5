"""Kustomize's objects as the files that ``touchmark install`` renders. Pure.

Belongs here: which object stands in which file. Doesn't: what is chosen in them (``cli/cluster/installation``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

from scripts.chart.templates import HEAD, normalise

Json = dict[str, Any]


def make_bundle(single: Iterable[Json], several: Iterable[Json]) -> dict[str, str]:
    """Return each file's text by its name: what both overlays have, and what each of them has otherwise."""
    alone, shared = ([normalise(each) for each in documents] for documents in (single, several))
    parts = {
        "common.yaml": [each for each in alone if each in shared],
        "single.yaml": [each for each in alone if each not in shared],
        "several.yaml": [each for each in shared if each not in alone],
    }
    return {
        name: HEAD + yaml.safe_dump_all(documents, sort_keys=False, width=1000) for name, documents in parts.items()
    }
