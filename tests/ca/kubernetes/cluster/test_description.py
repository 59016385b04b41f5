"""Pods are counted by namespace, and those that something is wrong with are named.

As the admin API shows it: ``tests/ca/api/admin/test_cluster.py``.
"""

from __future__ import annotations

from ca.kubernetes.cluster.description import count_pods
from ca.kubernetes.cluster.pods import NamespaceIndex, NamespaceRecord, trim_pod
from shared.model.kubernetes.contract import INJECT
from shared.model.wire.admin import MAX_PODS_SHOWN
from tests.ca.kubernetes.making import decode_pod, make_pod_index, make_pod_json, make_record, make_uid


def test_pods_that_ask_and_have_no_sidecar_are_counted_and_the_first_are_named() -> None:
    pods, namespaces = make_pod_index(), NamespaceIndex(on_labels=lambda: None)
    namespaces.replace([NamespaceRecord("shop", {INJECT: "true"}), NamespaceRecord("empty", {INJECT: "true"})])
    for number in range(MAX_PODS_SHOWN + 2):
        pods.apply(make_record(f"web-{number:03}", uid=make_uid(number), injected=False, annotation=None))
    pods.apply(make_record("db-0", uid=make_uid(5000)))
    census = count_pods(pods, namespaces, connected={make_uid(5000)})
    empty, shop = census.namespaces
    assert (empty.namespace, empty.is_labelled, empty.pods) == ("empty", True, 0)
    assert (shop.pods, shop.wanted, shop.injected, shop.connected) == (MAX_PODS_SHOWN + 3, MAX_PODS_SHOWN + 3, 1, 1)
    assert [pod.name for pod in census.not_injected] == [f"web-{number:03}" for number in range(MAX_PODS_SHOWN)]
    assert census.unfit == ()


def test_pods_of_the_nodes_own_are_passed_over_and_named_unless_they_asked() -> None:
    pods, namespaces = make_pod_index(), NamespaceIndex(on_labels=lambda: None)
    namespaces.replace([NamespaceRecord("shop", {INJECT: "true"}), NamespaceRecord("bank", {})])
    for number, (namespace, annotation) in enumerate(
        [("shop", None), ("shop", "false"), ("shop", "true"), ("bank", None)]
    ):
        pod = make_pod_json(
            f"p-{number}", namespace=namespace, annotation=annotation, injected=False, uid=make_uid(number)
        )
        pod["spec"]["hostNetwork"] = True
        pods.apply(trim_pod(decode_pod(pod), images=[], ca_names=[]))
    census = count_pods(pods, namespaces, connected=())
    assert [(pod.name, pod.message) for pod in census.passed_over] == [("p-0", "host_network")]
    assert [pod.name for pod in census.not_injected] == ["p-2"]
    assert [(each.namespace, each.wanted) for each in census.namespaces] == [("bank", 0), ("shop", 1)]
