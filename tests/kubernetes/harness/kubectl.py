"""The program ``kubectl`` with one kubeconfig: what an operator would type. Does I/O."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.kubernetes import binaries
from tests.kubernetes.harness.processes import wait_until


class KubectlError(Exception):
    """The command failed; the message is what it printed on standard error."""


class Kubectl:
    """Runs kubectl as the kubeconfig's user."""

    def __init__(self, kubeconfig: Path, *, cache: Path | None = None) -> None:
        self.kubeconfig = kubeconfig
        self._cache = cache or kubeconfig.parent / "kubectl-cache"

    def __call__(self, *arguments: str, stdin: str | None = None, timeout_s: float = 60.0) -> str:
        """Standard output of ``kubectl ARGUMENTS``; raises `KubectlError` when it fails."""
        result = self.run(*arguments, stdin=stdin, timeout_s=timeout_s)
        if result.returncode != 0:
            raise KubectlError(f"kubectl {' '.join(arguments)}: {result.stderr.strip()}")
        return result.stdout

    def run(
        self, *arguments: str, stdin: str | None = None, timeout_s: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """The finished command, whatever its exit code."""
        options = [f"--kubeconfig={self.kubeconfig}", f"--cache-dir={self._cache}"]
        return subprocess.run(
            [binaries.locate("kubectl"), *options, *arguments],
            input=stdin if stdin is not None else "",
            text=True,
            capture_output=True,
            check=False,
            timeout=timeout_s,
            env={**os.environ, "no_proxy": "*", "NO_PROXY": "*"},
        )

    def apply(self, *documents: Mapping[str, Any], namespace: str | None = None) -> None:
        """Server-side apply of these objects; ``namespace`` for those that name none.

        The API server refuses fields that it doesn't know. kubectl's own look would have it make its whole description
        each time, which after a new definition takes a busy machine more than kubectl's 32 s.
        """
        where = ["-n", namespace] if namespace is not None else []
        items = {"apiVersion": "v1", "kind": "List", "items": list(documents)}
        options = ["--server-side", "--force-conflicts", "--validate=false"]
        self("apply", *options, *where, "-f", "-", stdin=json.dumps(items), timeout_s=150)

    def get(self, *arguments: str) -> Any:
        """``kubectl get ARGUMENTS`` as an object."""
        return json.loads(self("get", *arguments, "-o", "json"))

    def wait_until_established(self, *, timeout_s: float = 120.0) -> None:
        """Wait until the API server serves every definition that there is.

        ``kubectl wait`` fails where it meets one that has no condition yet, as in the first moment after it was made.
        """

        def are_established() -> bool:
            conditions = [each.get("status", {}).get("conditions") or [] for each in self.get("crd")["items"]]
            return all(
                any(each["type"] == "Established" and each["status"] == "True" for each in of) for of in conditions
            )

        wait_until(are_established, timeout_s=timeout_s)
