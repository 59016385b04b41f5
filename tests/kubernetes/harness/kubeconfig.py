"""Kubeconfig files for identities. Does I/O: they are private files."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path

from tests.kubernetes.harness.pki import KeyPair


def write(path: Path, *, server: str, ca: bytes, credential: KeyPair | str, namespace: str = "default") -> Path:
    """One cluster, one user (a certificate or a bearer token), one context. JSON is YAML, too."""
    if isinstance(credential, str):
        user: Mapping[str, str] = {"token": credential}
    else:
        user = {
            "client-certificate-data": base64.b64encode(credential.certificate).decode(),
            "client-key-data": base64.b64encode(credential.key).decode(),
        }
    cluster = {"server": server, "certificate-authority-data": base64.b64encode(ca).decode()}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
        "current-context": "test",
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(content), encoding="ascii")
    return path
