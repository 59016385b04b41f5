"""Who is at an address: registrants, those that took over, and those that have died."""

from __future__ import annotations

from ca.distribution.directory import Directory
from ca.kubernetes.view import NoCluster
from ca.store.records import SidecarRecord
from shared.model.identity.identity import Workload
from shared.model.wire.messages import DirectoryEntry


def make_sidecar(instance: str, *addresses: str, account: str = "web", seen: float = 0.0) -> SidecarRecord:
    return SidecarRecord(
        instance=instance,
        workload=Workload(namespace="shop", service_account=account),
        allowed_addresses=addresses,
        addresses=addresses,
        tunnel_port=15008,
        last_seen=seen,
    )


def test_nobody_is_at_an_unknown_address() -> None:
    assert Directory(find_vouched=NoCluster().find_entry).get("198.18.0.2") == DirectoryEntry(address="198.18.0.2")


def test_a_registration_says_what_changed_once() -> None:
    directory = Directory(find_vouched=NoCluster().find_entry)
    assert directory.register(make_sidecar("a", "198.18.0.2", "198.18.0.3")) == ["198.18.0.2", "198.18.0.3"]
    assert directory.register(make_sidecar("a", "198.18.0.2", "198.18.0.3")) == []
    entry = directory.get("198.18.0.2")
    assert (entry.namespace, entry.service_account, entry.tunnel_port) == ("shop", "web", 15008)
    assert len(directory) == 2


def test_an_address_that_is_no_longer_registered_goes() -> None:
    directory = Directory(find_vouched=NoCluster().find_entry)
    directory.register(make_sidecar("a", "198.18.0.2", "198.18.0.3"))
    assert directory.register(make_sidecar("a", "198.18.0.3", "198.18.0.4")) == ["198.18.0.2", "198.18.0.4"]
    assert directory.get("198.18.0.2").namespace == ""


def test_a_spelling_of_an_address_is_the_address() -> None:
    directory = Directory(find_vouched=NoCluster().find_entry)
    directory.register(make_sidecar("a", "::ffff:198.18.0.2", "2001:DB8::0001"))
    assert directory.get("198.18.0.2").service_account == "web"
    assert directory.get("2001:db8::1").service_account == "web"


def test_a_successor_of_the_same_workload_changes_nothing_and_keeps_the_address() -> None:
    directory = Directory(find_vouched=NoCluster().find_entry)
    directory.register(make_sidecar("old", "198.18.0.2"))
    assert directory.register(make_sidecar("new", "198.18.0.2")) == []
    assert directory.register(make_sidecar("old")) == []  # What it no longer owns isn't its to remove.
    assert directory.get("198.18.0.2").service_account == "web"


def test_refreshing_drops_the_dead_and_the_last_seen_wins() -> None:
    directory = Directory(find_vouched=NoCluster().find_entry)
    directory.register(make_sidecar("dead", "198.18.0.9"))
    live = [make_sidecar("new", "198.18.0.2", account="db", seen=2.0), make_sidecar("old", "198.18.0.2", seen=1.0)]
    assert set(directory.refresh(live)) == {"198.18.0.2", "198.18.0.9"}
    assert directory.get("198.18.0.2").service_account == "db"
    assert directory.get("198.18.0.9").namespace == ""
    assert len(directory) == 1
    assert directory.refresh([make_sidecar("new", "198.18.0.2", account="db", seen=2.0)]) == []
