"""An installation's objects with what was chosen in them. Pure."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable
from typing import Any, Final

from cli.cluster.connection import Object
from cli.cluster.installation.choices import (
    DATABASE_PORT,
    DNS_PORT,
    SIDECAR_IMAGE,
    TRUST_DOMAIN,
    Choices,
    find_container,
)
from shared.model.kubernetes.contract import CA_SERVICE, SYSTEM_NAMESPACE

SETTINGS: Final = "touchmark-settings"
DATABASE_SECRET: Final = "touchmark-database"
_HASH_LENGTH: Final = 10
_HASH_LETTERS: Final = str.maketrans("013ae", "ghkmt")


def render(objects: Iterable[Object], choices: Choices) -> list[Object]:
    """Return the objects as they are applied, in the same order.

    Arguments:
        objects: of ``bundle.load_objects``, with PostgreSQL if that is chosen.
    """
    rendered = [copy.deepcopy(each) for each in objects]
    names = {SYSTEM_NAMESPACE: choices.namespace}
    for each in rendered:
        choose = _CHOOSE.get(each["kind"])
        if choose is not None and each["metadata"]["name"] in (CA_SERVICE, SETTINGS):
            choose(each, choices)
        if each["kind"] == "ConfigMap":
            names[SETTINGS] = name_settings(each)
    if choices.database_secret:
        names[DATABASE_SECRET] = choices.database_secret
    return [_rename(each, names) for each in rendered]


def name_settings(settings: Object) -> str:
    """Return the name of a settings' ConfigMap, which changes with them, so that the CA's pods are made anew.

    Source: Kustomize, api/hasher: the same settings have the same name there.
    """
    # Kustomize looks the name up under a path that is never there, so that it is always empty.
    hashed = {"data": settings["data"], "kind": "ConfigMap", "name": ""}
    text = json.dumps(hashed, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    digest = hashlib.sha256(text.encode()).hexdigest()[:_HASH_LENGTH]
    return f"{settings['metadata']['name']}-{digest.translate(_HASH_LETTERS)}"


def _rename(value: Any, names: dict[str, str]) -> Any:
    """Put chosen names in the places of the manifests' own, wherever such a name stands alone."""
    if isinstance(value, dict):
        return {key: _rename(each, names) for key, each in value.items()}
    if isinstance(value, list):
        return [_rename(each, names) for each in value]
    return names.get(value, value) if isinstance(value, str) else value


def _choose_settings(settings: Object, choices: Choices) -> None:
    if choices.sidecar_images:
        settings["data"][SIDECAR_IMAGE] = ",".join(choices.sidecar_images)
    if choices.trust_domain:
        settings["data"][TRUST_DOMAIN] = choices.trust_domain


def _choose_deployment(deployment: Object, choices: Choices) -> None:
    if choices.replicas:
        deployment["spec"]["replicas"] = choices.replicas
    pod = deployment["spec"]["template"]["spec"]
    if choices.image:
        find_container(pod)["image"] = choices.image
    if choices.pull_secrets:
        pod["imagePullSecrets"] = [{"name": each} for each in choices.pull_secrets]
    if choices.node_selector:
        pod["nodeSelector"] = dict(choices.node_selector)
    if choices.priority_class:
        pod["priorityClassName"] = choices.priority_class


def _choose_claim(claim: Object, choices: Choices) -> None:
    if choices.storage_size:
        claim["spec"]["resources"]["requests"]["storage"] = choices.storage_size
    if choices.storage_class:
        claim["spec"]["storageClassName"] = choices.storage_class


def _choose_network(policy: Object, choices: Choices) -> None:
    for rule in policy["spec"].get("egress") or ():
        ports = [each["port"] for each in rule["ports"]]
        database = [choices.database_port or DATABASE_PORT] if DATABASE_PORT in ports else []
        api_server = choices.api_server_ports or tuple(port for port in ports if port not in (DNS_PORT, DATABASE_PORT))
        names = [each for each in rule["ports"] if each["port"] == DNS_PORT]
        rule["ports"] = [*names, *({"port": port, "protocol": "TCP"} for port in (*api_server, *database))]


_CHOOSE: Final = {
    "ConfigMap": _choose_settings,
    "Deployment": _choose_deployment,
    "PersistentVolumeClaim": _choose_claim,
    "NetworkPolicy": _choose_network,
}
