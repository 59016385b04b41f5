"""The chart rendered by Helm, compared object by object with what Kustomize builds. Does I/O: runs helm and kubectl."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from scripts.chart.templates import SYSTEM_NAMESPACE, normalise

# With these the chart says what the manifests say.
SINGLE = ("--set", "crds.keep=false,storage.keep=false")
SEVERAL = (*SINGLE, "--set", "database.secret=touchmark-database")

_KUBE_VERSION = "1.30.0"  # A helm that was built without its flags takes the cluster for an old one.


def render(helm: Path, chart: Path, *, namespace: str, options: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return what ``helm template`` prints."""
    command = [str(helm), "template", "touchmark", str(chart), "--namespace", namespace]
    command += ["--kube-version", _KUBE_VERSION, *options]
    text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [each for each in yaml.safe_load_all(text) if each]


def compare(rendered: Iterable[dict[str, Any]], built: Iterable[dict[str, Any]], *, namespace: str) -> list[str]:
    """Name each object that only one of both has, or that differs.

    Arguments:
        namespace: of the release; what Kustomize builds is for ``touchmark-system``.
    """
    ours = {_name(each): normalise(each) for each in rendered}
    theirs = {_name(each): _move(normalise(each), namespace) for each in built if each["kind"] != "Namespace"}
    return [
        f"{name}: {'differs' if name in ours and name in theirs else 'only one has it'}"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]


def _name(document: dict[str, Any]) -> str:
    return f"{document['kind']} {normalise(document)['metadata']['name']}"


def _move(value: Any, namespace: str) -> Any:
    if isinstance(value, dict):
        return {key: _move(each, namespace) for key, each in value.items()}
    if isinstance(value, list):
        return [_move(each, namespace) for each in value]
    return namespace if value == SYSTEM_NAMESPACE else value
