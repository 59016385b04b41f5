"""Which kubeconfig files this user has. Reads the environment and looks for files; opens none."""

from __future__ import annotations

import os
from pathlib import Path

KUBECONFIG_VARIABLE = "KUBECONFIG"


def list_kubeconfig_files(named: str = "") -> list[Path]:
    """Return the kubeconfig's files that are there: those named, or of the environment, or ``~/.kube/config``."""
    text = named or os.environ.get(KUBECONFIG_VARIABLE, "") or "~/.kube/config"
    paths = [Path(os.path.expanduser(part)) for part in text.split(os.pathsep) if part]
    return [path for path in paths if path.is_file()]
