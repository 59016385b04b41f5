"""What a user applies is valid: each overlay against the real API server, our pod against its own namespace's level."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.cluster.ca_rights import CLIENT_ROOTS_CONFIG_MAP
from shared.model.kubernetes import contract as names
from tests.kubernetes.harness.api_server import ApiServer
from tests.kubernetes.harness.kubectl import KubectlError

pytestmark = pytest.mark.each_release

MANIFESTS = Path(__file__).parents[2] / "manifests"
OVERLAYS = ("overlays/single", "overlays/ha", "demo")


def render(api_server: ApiServer, name: str) -> list[dict[str, Any]]:
    """What ``kubectl kustomize`` makes of a directory below manifests/."""
    return [each for each in yaml.safe_load_all(api_server.kubectl("kustomize", str(MANIFESTS / name))) if each]


def find(documents: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    [found] = [each for each in documents if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_api_server_takes_every_object_of_an_overlay(api_server: ApiServer, name: str) -> None:
    documents = render(api_server, name)
    # A trial makes nothing, so that the namespaces have to be there before what lives in them is tried.
    for document in documents:
        if document["kind"] == "Namespace":
            api_server.kubectl.apply(document)
    api_server.kubectl(
        "apply",
        "--server-side",
        "--dry-run=server",
        "--validate=strict",
        "-f",
        "-",
        stdin=yaml.safe_dump_all(documents),
    )


@pytest.mark.parametrize("name", ["overlays/single", "overlays/ha"])
def test_the_cas_pod_is_one_that_its_restricted_namespace_admits(api_server: ApiServer, name: str) -> None:
    documents = render(api_server, name)
    api_server.create_namespace(names.SYSTEM_NAMESPACE, labels=documents[0]["metadata"]["labels"])
    api_server.kubectl.apply(find(documents, "ServiceAccount", "touchmark-ca"))
    template = find(documents, "Deployment", "touchmark-ca")["spec"]["template"]
    metadata = {"name": "ca", "namespace": names.SYSTEM_NAMESPACE, "labels": template["metadata"]["labels"]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
    api_server.kubectl("apply", "--server-side", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))
    lax = copy.deepcopy(pod)
    lax["spec"]["containers"][0]["securityContext"]["capabilities"] = {"add": ["NET_ADMIN"]}
    with pytest.raises(KubectlError, match="restricted"):
        api_server.kubectl("apply", "--server-side", "--dry-run=server", "-f", "-", stdin=json.dumps(lax))


def test_names_and_ports_are_those_of_the_code(api_server: ApiServer) -> None:
    documents = render(api_server, "overlays/single")
    assert documents[0]["metadata"]["name"] == names.SYSTEM_NAMESPACE
    ports = {each["name"]: each["port"] for each in find(documents, "Service", names.CA_SERVICE)["spec"]["ports"]}
    assert ports == {"stream": names.STREAM_PORT, "webhook": 443}
    [container] = find(documents, "Deployment", "touchmark-ca")["spec"]["template"]["spec"]["containers"]
    assert {each["containerPort"] for each in container["ports"]} == {names.STREAM_PORT, names.WEBHOOK_PORT}
    assert f"--admin-listen=127.0.0.1:{names.ADMIN_PORT}" in container["args"]
    assert find(documents, "MutatingWebhookConfiguration", names.WEBHOOK_CONFIGURATION)


def test_rights_to_single_objects_name_those_that_the_code_uses(api_server: ApiServer) -> None:
    """Kustomize rewrites what looks like the name of a generated object."""
    documents = render(api_server, "overlays/single")
    rules = [
        rule
        for document in documents
        if document["kind"] in ("Role", "ClusterRole") and document["metadata"]["name"] == "touchmark-ca"
        for rule in document["rules"]
    ]
    found: dict[str, list[str]] = {}
    for rule in rules:
        for resource in rule["resources"] if "resourceNames" in rule else ():
            found.setdefault(resource, []).extend(rule["resourceNames"])
    assert found == {
        "leases": [names.LEASE],
        "secrets": ["touchmark-kek"],
        "configmaps": [CLIENT_ROOTS_CONFIG_MAP, names.TRUST_CONFIG_MAP],
        "clusterroles": [names.CLUSTER_ROLE],
        "mutatingwebhookconfigurations": [names.WEBHOOK_CONFIGURATION],
    }


def test_one_ca_on_a_volume_is_never_two(api_server: ApiServer) -> None:
    deployment = find(render(api_server, "overlays/single"), "Deployment", "touchmark-ca")
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    volumes = {each["name"]: each for each in deployment["spec"]["template"]["spec"]["volumes"]}
    assert volumes["data"] == {"name": "data", "persistentVolumeClaim": {"claimName": "touchmark-ca"}}


def test_the_databases_password_is_in_no_argument(api_server: ApiServer) -> None:
    deployment = find(render(api_server, "overlays/ha"), "Deployment", "touchmark-ca")
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    [url] = [each for each in container["env"] if each["name"] == "TOUCHMARK_DATABASE_URL"]
    assert url["valueFrom"]["secretKeyRef"]["name"] == "touchmark-database"
    assert not any("TOUCHMARK_DATABASE_URL" in each for each in container["args"])
    assert deployment["spec"]["replicas"] >= 2
