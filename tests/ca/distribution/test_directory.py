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


def refresh(directory: Directory, *live: SidecarRecord) -> list[str]:
    return directory.refresh(live, begun=directory.begin_refresh())


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
    assert set(refresh(directory, *live)) == {"198.18.0.2", "198.18.0.9"}
    assert directory.get("198.18.0.2").service_account == "db"
    assert directory.get("198.18.0.9").namespace == ""
    assert len(directory) == 1
    assert refresh(directory, make_sidecar("new", "198.18.0.2", account="db", seen=2.0)) == []


def test_who_registers_while_the_live_ones_are_read_stays() -> None:
    """Read before it came, they don't have it: nobody would be at its address until they are read again."""
    directory = Directory(find_vouched=NoCluster().find_entry)
    before = [make_sidecar("old", "198.18.0.2", "198.18.0.3")]
    assert refresh(directory, *before) == ["198.18.0.2", "198.18.0.3"]
    begun = directory.begin_refresh()
    assert directory.register(make_sidecar("new", "198.18.0.3", "198.18.0.4", account="db")) == [
        "198.18.0.3", "198.18.0.4",
    ]  # fmt: skip
    assert directory.register(make_sidecar("old", "198.18.0.5")) == ["198.18.0.2", "198.18.0.5"]
    after = [make_sidecar("new", "198.18.0.3", "198.18.0.4", account="db"), make_sidecar("old", "198.18.0.5")]
    for listed, number in ((before, begun), (after, directory.begin_refresh()), (before, begun)):
        assert directory.refresh(listed, begun=number) == []
        assert [directory.get(f"198.18.0.{each}").service_account for each in (2, 3, 4, 5)] == ["", "db", "db", "web"]
    assert refresh(directory, *after[:1]) == ["198.18.0.5"], "it has died since"
    assert directory._registered == {}, "what is remembered is bounded"
