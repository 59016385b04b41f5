"""The API server judges MeshPolicy and Program objects as the YAML reader does: the same cases for both."""

from __future__ import annotations

import copy
import json
from collections.abc import AsyncIterator
from typing import Any

import kubernetes.aio.client
import kubernetes.aio.config
import pytest
from kubernetes.aio.client.exceptions import ApiException

from shared.model.policy.documents import read_document
from tests.kubernetes.harness.api_server import ApiServer
from tests.kubernetes.harness.kubectl import KubectlError
from tests.shared.model.policy.object_cases import CASES, A, Case, policy, program

pytestmark = pytest.mark.each_release

PLURALS = {"MeshPolicy": "meshpolicies", "Program": "programs"}


@pytest.fixture(scope="module", autouse=True)
def installed(api_server: ApiServer) -> None:
    """The definitions, as an overlay brings them."""
    api_server.install_definitions()


@pytest.fixture
async def api(api_server: ApiServer) -> AsyncIterator[kubernetes.aio.client.CustomObjectsApi]:
    client = await kubernetes.aio.config.new_client_from_config(config_file=str(api_server.admin))
    async with client:
        yield kubernetes.aio.client.CustomObjectsApi(client)


def placed(document: dict[str, Any], namespace: str) -> dict[str, Any]:
    document = copy.deepcopy(document)
    document["metadata"]["namespace"] = namespace
    return document


async def create(api: kubernetes.aio.client.CustomObjectsApi, document: dict[str, Any]) -> Any:
    """Create it on trial, with the strict validation that the command asks for."""
    return await api.create_namespaced_custom_object(
        "touchmark.dev",
        "v1alpha1",
        document["metadata"]["namespace"],
        PLURALS[document["kind"]],
        document,
        dry_run="All",
        field_validation="Strict",
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_each_case_is_judged_as_the_reader_does(api: kubernetes.aio.client.CustomObjectsApi, case: Case) -> None:
    document = placed(case.document, "default")
    if not case.is_accepted_by_server:
        with pytest.raises(ApiException) as caught:
            await create(api, document)
        assert caught.value.status in (400, 422), caught.value.body
        return
    stored = await create(api, document)
    if case.server != "accepts":
        # What a server hands out, with all that it adds to the metadata, is read without a fault.
        read_document(stored)


def test_a_fault_is_told_in_our_words(api_server: ApiServer, namespace: str) -> None:
    wrong = placed(policy({"rules": [{"name": "r", "action": "allow", "peers": [{"unidentified": True}]}]}), namespace)
    with pytest.raises(KubectlError, match="`unidentified: true` goes together with `cidrs` or `hosts`") as caught:
        api_server.kubectl.apply(wrong)
    assert "spec.rules[0].peers[0]" in str(caught.value)


def test_an_unknown_field_is_refused_with_its_path(api_server: ApiServer, namespace: str) -> None:
    document = json.dumps(placed(policy({"mod": "explicit"}), namespace))
    with pytest.raises(KubectlError, match=r'unknown field "spec\.mod"'):
        api_server.kubectl("create", "--validate=strict", "-f", "-", stdin=document)


def test_short_names_category_and_columns(api_server: ApiServer, namespace: str) -> None:
    kubectl = api_server.kubectl
    kubectl.apply(placed(policy({"mode": "explicit"}), namespace), placed(program(digests=[A]), namespace))
    status = {
        "observedGeneration": 1,
        "mode": "explicit",
        "version": 7,
        "sidecars": 3,
        "installed": 2,
        "waiting": ["web-1.0a1b2c3d"],
        "conditions": [
            {
                "type": "Accepted",
                "status": "True",
                "reason": "InForce",
                "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }
        ],
    }
    patch = json.dumps({"status": status})
    kubectl("patch", "mp", "default", "-n", namespace, "--subresource=status", "--type=merge", "-p", patch)
    header, row = kubectl("get", "mp", "-n", namespace).splitlines()
    assert header.split() == ["NAME", "MODE", "VERSION", "INSTALLED", "SIDECARS", "ACCEPTED", "AGE"]
    assert row.split()[:6] == ["default", "explicit", "7", "2", "3", "True"]
    assert kubectl("get", "prog", "-n", namespace).splitlines()[1].split()[:2] == ["postgres", "db"]
    everything = kubectl("get", "touchmark", "-n", namespace, "-o", "name").split()
    assert everything == ["meshpolicy.touchmark.dev/default", "program.touchmark.dev/postgres"]


def test_rules_are_merged_by_name(api_server: ApiServer, namespace: str) -> None:
    """Two field managers keep a rule each; a rule's own lists belong to one of them."""
    for manager in ("one", "two"):
        document = placed(policy({"rules": [{"name": manager, "action": "deny", "ports": [80]}]}), namespace)
        api_server.kubectl(
            "apply", "--server-side", f"--field-manager={manager}", "-f", "-", stdin=json.dumps(document)
        )
    rules = api_server.kubectl.get("mp", "default", "-n", namespace)["spec"]["rules"]
    assert [rule["name"] for rule in rules] == ["one", "two"]


def test_the_status_is_no_part_of_the_object_that_people_write(api_server: ApiServer, namespace: str) -> None:
    api_server.kubectl.apply({**placed(policy({}), namespace), "status": {"mode": "explicit"}})
    stored = api_server.kubectl.get("mp", "default", "-n", namespace)
    assert "status" not in stored
    assert stored["metadata"]["generation"] == 1
