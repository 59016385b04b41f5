"""Helm, as `python -m scripts.kubernetes api` builds it. Runs it, in a home of its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from scripts.kubernetes import binaries, cache


def find_helm() -> Path:
    """Return the program; the test is left out where ``KUBEBUILDER_ASSETS`` stands in for what is built here."""
    try:
        return binaries.locate(binaries.HELM)
    except cache.SetupError as error:
        if os.environ.get("KUBEBUILDER_ASSETS"):
            pytest.skip(str(error))
        raise


def run_helm(home: Path, *arguments: str) -> str:
    """Return what it prints; against the cluster of ``KUBECONFIG``, where it needs one."""
    places = {
        "HOME": str(home),
        "HELM_CACHE_HOME": str(home),
        "HELM_CONFIG_HOME": str(home),
        "HELM_DATA_HOME": str(home),
    }
    done = subprocess.run(
        [find_helm(), *arguments],
        env={**os.environ, **places},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout
