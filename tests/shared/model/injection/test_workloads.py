from __future__ import annotations

import copy
from typing import Any

import pytest

from shared.model.injection.refusals import InjectionRefusedError
from shared.model.injection.workloads import find_templates, inject_template
from tests.shared.model.injection.golden_injection import OPTIONS
from tests.shared.model.injection.pods import Json, make_pod

KINDS = [
    ("v1", "ReplicationController"),
    ("apps/v1", "Deployment"),
    ("apps/v1", "StatefulSet"),
    ("apps/v1", "DaemonSet"),
    ("apps/v1", "ReplicaSet"),
    ("batch/v1", "Job"),
]


def _workload(version: str, kind: str, name: str = "web") -> Json:
    pod = make_pod()
    template = {"metadata": pod["metadata"], "spec": pod["spec"]}
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": {"template": template}}


def _inject_all(document: Any, *, is_asked_for_all: bool = False) -> Any:
    for template in list(find_templates(document)):
        outcome = inject_template(
            document, template, namespace="shop", is_asked_for_all=is_asked_for_all, options=OPTIONS
        )
        if outcome is not None:
            document = outcome[0]
    return document


@pytest.mark.parametrize(("version", "kind"), KINDS)
def test_each_kind_of_workload_has_its_template_injected(version: str, kind: str) -> None:
    document = _workload(version, kind)
    before = copy.deepcopy(document)
    injected = _inject_all(document)
    assert document == before
    assert len(injected["spec"]["template"]["spec"]["initContainers"]) == 2
    assert {**injected, "spec": None} == {**before, "spec": None}


def test_lists_are_walked_and_their_items_keep_their_shape() -> None:
    items = [_workload("apps/v1", "Deployment", "a"), {"apiVersion": "v1", "kind": "Service"}, make_pod()]
    document = {
        "apiVersion": "v1",
        "kind": "List",
        "items": [*items, {"apiVersion": "v1", "kind": "List", "items": []}],
    }
    templates = list(find_templates(document))
    assert [each.path for each in templates] == ["items[0].spec.template", "items[2]"]
    injected = _inject_all(document)
    assert injected["items"][1] == items[1]
    assert len(injected["items"][2]["spec"]["initContainers"]) == 2


def test_the_items_of_a_typed_list_need_no_type() -> None:
    item = {key: value for key, value in make_pod().items() if key in {"metadata", "spec"}}
    injected = _inject_all({"apiVersion": "v1", "kind": "PodList", "items": [item]})
    assert set(injected["items"][0]) == {"metadata", "spec"}
    assert len(injected["items"][0]["spec"]["initContainers"]) == 2


@pytest.mark.parametrize(
    "document",
    [
        None,
        "text",
        [],
        {"kind": "Pod"},
        {"apiVersion": "v1", "kind": "Service"},
        {"apiVersion": "example.org/v1", "kind": "Deployment", "spec": {"template": {}}},
        {"apiVersion": "v1", "kind": "List", "items": "x"},
    ],
)
def test_what_holds_no_pod_is_left_alone(document: Any) -> None:
    assert list(find_templates(document)) == []


def test_lists_in_lists_end_somewhere() -> None:
    document: Json = {"apiVersion": "v1", "kind": "List", "items": []}
    for _ in range(6):
        document = {"apiVersion": "v1", "kind": "List", "items": [document]}
    with pytest.raises(InjectionRefusedError, match="nested"):
        list(find_templates(document))


def test_a_namespace_that_asks_asks_for_all_but_those_that_say_no() -> None:
    document = make_pod()
    document["metadata"]["annotations"] = {}
    assert _inject_all(document) == document
    assert _inject_all(document, is_asked_for_all=True) != document
    document["metadata"]["annotations"] = {"touchmark.dev/inject": "false"}
    assert _inject_all(document, is_asked_for_all=True) == document


def test_an_injected_document_comes_back_as_it_is() -> None:
    injected = _inject_all(_workload("apps/v1", "Deployment"))
    assert _inject_all(injected) == injected
