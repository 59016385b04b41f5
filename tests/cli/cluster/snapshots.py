"""A cluster in which everything is well, for tests that change one thing of it."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cli.cluster.snapshot import ClusterSnapshot
from shared.model.errors import TouchmarkError
from shared.model.kubernetes.contract import ADMISSION_POLICIES
from tests.cli.fake_api import make_pod
from tests.cli.observations import OBSERVATION

SIDECAR = {"name": "touchmark-sidecar", "image": "touchmark/sidecar:0.1.0"}


def make_bundle() -> tuple[str, str]:
    """Return a root's certificate as a ``caBundle``, and its key's pin."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "root")])
    now = datetime.now(UTC)
    certificate = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1)).sign(
        key, SHA256()
    )
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(certificate.public_bytes(Encoding.PEM)).decode(), hashlib.sha256(spki).hexdigest()


BUNDLE, PIN = make_bundle()


def make_definition(name: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "spec": {"versions": [{"name": "v1alpha1", "served": True, "storage": True}]},
        "status": {"conditions": [{"type": "Established", "status": "True"}]},
    }


def make_webhook(**changes: Any) -> dict[str, Any]:
    webhook = {"name": "pods", "clientConfig": {"caBundle": BUNDLE}, "failurePolicy": "Fail", **changes}
    return {"metadata": {"name": "touchmark"}, "webhooks": [webhook]}


def make_admission_policy(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "policy"}, "spec": {"failurePolicy": "Fail", **spec}}


def make_binding(*actions: str) -> dict[str, Any]:
    return {"metadata": {"name": "policy"}, "spec": {"validationActions": list(actions or ("Deny",))}}


def make_namespace(name: str, **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name, **labels}}}


def make_meshed_pod(name: str, *, namespace: str = "shop", **more: Any) -> dict[str, Any]:
    return make_pod(name, namespace=namespace, spec={"initContainers": [SIDECAR]}, **more)


def make_policy(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "narrow", "namespace": "shop"}, "spec": {"podSelector": {}, **spec}}


SNAPSHOT = ClusterSnapshot(
    system_namespace="touchmark-system",
    version="v1.34.4",
    api_skew_s=0.0,
    definitions={name: make_definition(name) for name in ("meshpolicies.touchmark.dev", "programs.touchmark.dev")},
    webhook=make_webhook(),
    admission_policies={name: (make_admission_policy(), make_binding()) for name in ADMISSION_POLICIES},
    ca_pods=[make_pod("ca-0", spec={"containers": [{"name": "ca", "image": "touchmark/ca:0.1.0"}]})],
    namespaces=[make_namespace("shop", **{"touchmark.dev/inject": "true"}), make_namespace("touchmark-system")],
    pods=[make_meshed_pod("web-1"), make_pod("ca-0")],
    network_policies=[],
    saying=frozenset({"shop"}),
    missing_rights=[],
    trial_namespace="shop",
    trial=True,
    observed=replace(OBSERVATION, ca=msgspec.structs.replace(OBSERVATION.ca, root_pin=PIN)),
    ca_skew_s=0.0,
)
ERROR = TouchmarkError("may not be asked", hint="ask for the right")


def change(**changes: Any) -> ClusterSnapshot:
    """Return the snapshot with other answers."""
    return replace(SNAPSHOT, **changes)
