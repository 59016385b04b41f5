"""An address is the pod's that got it last; whoever has gone is forgotten at once, and the right addresses are told."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from ca.kubernetes.cluster.pods import (
    Namespace,
    NamespaceIndex,
    NamespaceRecord,
    PodIndex,
    PodRecord,
    trim_namespace,
    trim_pod,
)
from shared.model.kubernetes.contract import SIDECAR_CONTAINER
from shared.model.wire.messages import DirectoryEntry
from tests.ca.kubernetes.making import UID, changed, decode_pod, make_pod_index, make_pod_json, make_record, make_uid


class Told:
    """An index, and what it said."""

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self.gone: list[str] = []
        self.index = PodIndex(on_addresses=self.addresses.extend, on_gone=lambda pod: self.gone.append(pod.name))

    def take(self) -> list[str]:
        """Return what was told since the last time."""
        told = sorted(self.addresses)
        self.addresses.clear()
        return told


def test_an_injected_pod_is_its_workload_as_soon_as_it_has_an_address() -> None:
    told = Told()
    told.index.apply(make_record("web-0"))
    assert told.take() == []
    told.index.apply(make_record("web-0", "198.18.0.2", "2001:DB8::2"))
    assert told.take() == ["198.18.0.2", "2001:db8::2"]
    for address in ("198.18.0.2", "2001:db8::2"):
        assert told.index.get_entry(address) == DirectoryEntry(
            address=address, namespace="shop", service_account="web", tunnel_port=15008
        )
    told.index.apply(make_record("web-0", "198.18.0.2", "2001:db8::2"))
    assert told.take() == []
    assert told.index.get_entry("198.18.0.3") is None


def test_a_pod_whose_sidecar_may_not_join_is_in_the_mesh_nevertheless() -> None:
    told = Told()
    told.index.apply(make_record("web-0", "198.18.0.2", image="registry.test/other:1"))
    entry = told.index.get_entry("198.18.0.2")
    assert entry is not None and entry.service_account == "web"
    pod = told.index.get(UID)
    assert pod is not None and "image that may not join" in pod.fault


def test_a_pod_without_sidecar_is_nobody_in_the_mesh() -> None:
    told = Told()
    told.index.apply(make_record("plain", "198.18.0.2", injected=False))
    assert told.take() == []
    assert told.index.get_entry("198.18.0.2") == DirectoryEntry(address="198.18.0.2")


def test_a_pod_in_the_node_s_network_has_no_address_of_its_own() -> None:
    pod = changed(make_pod_json("agent", "198.18.0.200"), "spec.hostNetwork", True)
    assert make_record("web-0", "198.18.0.2").addresses == ("198.18.0.2",)
    told = Told()
    told.index.apply(trim_pod(decode_pod(pod), images=[], ca_names=[]))
    assert told.index.get_entry("198.18.0.200") is None


@pytest.mark.parametrize("how", ["deleted", "ended", "no longer listed"])
def test_who_has_gone_leaves_its_addresses_at_once(how: str) -> None:
    told = Told()
    pod = make_record("web-0", "198.18.0.2")
    told.index.apply(pod)
    told.take()
    match how:
        case "deleted":
            told.index.remove(pod)
        case "ended":
            told.index.apply(make_record("web-0", "198.18.0.2", phase="Succeeded"))
        case _:
            told.index.replace([])
    assert told.take() == ["198.18.0.2"]
    assert told.gone == ["web-0"]
    assert told.index.get_entry("198.18.0.2") is None
    assert told.index.find_instance(pod.instance) is None
    assert len(told.index) == 0
    told.index.remove(pod)
    told.index.apply(make_record("web-0", "198.18.0.2", phase="Failed"))
    assert told.take() == [] and told.gone == ["web-0"]


def test_a_reused_address_belongs_to_the_pod_that_got_it_last() -> None:
    told = Told()
    old = make_record("old", "198.18.0.2", uid=make_uid(1), account="db", terminating=True)
    new = make_record("new", "198.18.0.2", uid=make_uid(2), account="web")
    told.index.apply(old)
    told.index.apply(new)
    assert told.take() == ["198.18.0.2", "198.18.0.2"]
    assert account(told.index) == "web"
    told.index.remove(old)
    assert told.take() == []  # It hasn't been its own for long.
    assert account(told.index) == "web"


def test_a_late_word_of_the_old_pod_takes_nothing_back() -> None:
    told = Told()
    told.index.apply(make_record("old", "198.18.0.2", uid=make_uid(1), account="db"))
    told.index.apply(make_record("new", "198.18.0.2", uid=make_uid(2)))
    told.index.apply(make_record("old", "198.18.0.2", uid=make_uid(1), account="db", terminating=True))
    assert account(told.index) == "web"


def test_an_unmeshed_pod_at_a_reused_address_is_not_taken_for_the_old_one() -> None:
    told = Told()
    told.index.apply(make_record("old", "198.18.0.2", uid=make_uid(1)))
    told.index.apply(make_record("plain", "198.18.0.2", uid=make_uid(2), injected=False))
    assert told.take() == ["198.18.0.2", "198.18.0.2"]
    assert told.index.get_entry("198.18.0.2") == DirectoryEntry(address="198.18.0.2")


def test_a_list_puts_the_younger_pod_last() -> None:
    told = Told()
    young = make_record("young", "198.18.0.2", uid=make_uid(1), created="2026-11-25T12:00:00Z")
    older = make_record("older", "198.18.0.2", uid=make_uid(2), account="db", created="2026-11-25T11:00:00Z")
    told.index.replace([young, older])
    assert account(told.index) == "web"


def test_a_pod_that_gets_another_address_leaves_the_first() -> None:
    told = Told()
    told.index.apply(make_record("web-0", "198.18.0.2"))
    told.take()
    told.index.apply(make_record("web-0", "198.18.0.3"))
    assert told.take() == ["198.18.0.2", "198.18.0.3"]
    assert told.index.get_entry("198.18.0.2") is None


def test_pods_are_found_by_their_sidecar_s_name() -> None:
    told = Told()
    told.index.apply(make_record("web-0", uid=make_uid(1)))
    told.index.apply(make_record("web-0", uid=make_uid(2)))
    pod = told.index.find_instance("web-0.00000002")
    assert pod is not None and pod.uid == make_uid(2)
    assert {each.uid for each in told.index} == {make_uid(1), make_uid(2)}


def test_an_address_that_we_cannot_read_is_nobodys() -> None:
    assert make_record("web-0", "not an address", "198.18.0.2").addresses == ("198.18.0.2",)
    assert make_record("mirror", uid="0123").instance == ""


async def test_waiting_ends_with_the_address() -> None:
    index = make_pod_index()
    waiting = [asyncio.create_task(index.wait_for_addresses(UID)) for _ in range(2)]
    await asyncio.sleep(0)
    index.apply(make_record("web-0"))
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    index.apply(make_record("web-0", "198.18.0.2"))
    found: list[PodRecord] = await asyncio.gather(*waiting)
    assert [pod.addresses for pod in found] == [("198.18.0.2",)] * 2
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await index.wait_for_addresses("other")
    assert index._waiters == {}


def test_a_namespace_s_label_asks_for_all_its_pods_that_do_not_say_no() -> None:
    index = NamespaceIndex(on_labels=lambda: None)
    text = '{"metadata": {"name": "%s", "labels": {"touchmark.dev/inject": "%s", "other": "x"}}}'
    for name, word in (("shop", "true"), ("bank", "false")):
        index.apply(trim_namespace(msgspec.json.decode(text % (name, word), type=Namespace)))
    plain = trim_namespace(msgspec.json.decode('{"metadata": {"name": "plain"}}', type=Namespace))
    index.apply(plain)
    assert index.list_labelled() == ["shop"]
    assert "plain" in index and len(index) == 3
    assert index.is_wanted(make_record(annotation=None))
    assert not index.is_wanted(make_record(annotation="false"))
    assert not index.is_wanted(make_record(annotation=None, namespace="bank"))
    assert index.is_wanted(make_record(annotation="true", namespace="bank"))
    assert index.labels_of("shop") == {"touchmark.dev/inject": "true", "other": "x"}
    assert index.labels_of("plain") == index.labels_of("nowhere") == {}
    index.remove(plain)
    assert "plain" not in index
    index.replace([])
    assert len(index) == 0


def test_only_changes_of_a_namespace_s_labels_are_told() -> None:
    told: list[int] = []
    index = NamespaceIndex(on_labels=lambda: told.append(1))
    index.replace([NamespaceRecord("shop", {"team": "red"})])
    index.apply(NamespaceRecord("shop", {"team": "red"}))
    assert len(told) == 1
    index.apply(NamespaceRecord("shop", {"team": "blue"}))
    index.apply(NamespaceRecord("bank"))
    assert len(told) == 3


def account(index: PodIndex) -> str:
    entry = index.get_entry("198.18.0.2")
    return entry.service_account if entry is not None else ""


def test_a_container_is_found_by_its_id_and_its_image_has_its_digest() -> None:
    pod = make_pod_json("web-0", "198.18.0.2")
    digest = f"sha256:{'1' * 64}"
    pod["status"]["containerStatuses"] = [
        {"name": "web", "image": "web:2", "imageID": f"web@{digest}", "containerID": f"containerd://{'a' * 64}"},
        {"name": "late", "image": "late:1", "imageID": "", "containerID": ""},
    ]
    pod["status"]["initContainerStatuses"] = [
        {"name": SIDECAR_CONTAINER, "image": "touchmark", "imageID": "", "containerID": f"containerd://{'b' * 64}"}
    ]
    record = trim_pod(decode_pod(pod), images=[], ca_names=[])
    assert record.find_image("a" * 64) == f"web:2@{digest}"
    assert record.find_image("") == f"web:2@{digest}", "there is only one that it can be"
    assert record.find_image("b" * 64) == record.find_image("c" * 64) == ""
    second = {"name": "log", "image": "log:1", "imageID": "", "containerID": f"containerd://{'d' * 64}"}
    pod["status"]["containerStatuses"].append(second)
    several = trim_pod(decode_pod(pod), images=[], ca_names=[])
    assert (several.find_image("d" * 64), several.find_image("")) == ("log:1", "")
