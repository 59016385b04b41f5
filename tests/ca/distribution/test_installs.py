"""Counted are the live sidecars that use a namespace's state, wherever their own workload is."""

from __future__ import annotations

from ca.distribution.installs import count_acknowledgements, group_by_namespace
from ca.store.records import SidecarRecord
from shared.model.identity.identity import Workload


def sidecar(instance: str, namespace: str, **versions: int) -> SidecarRecord:
    workload = Workload(namespace=namespace, service_account="web")
    return SidecarRecord(instance=instance, workload=workload, allowed_addresses=(), namespace_versions=dict(versions))


def test_who_uses_the_state_is_counted_and_who_lacks_it_is_named() -> None:
    live = [
        sidecar("z", "shop", shop=2),
        sidecar("b", "shop", shop=3),
        sidecar("a", "shop"),
        sidecar("c", "bank", shop=3, bank=9),
        sidecar("d", "bank", bank=9),
        sidecar("e", "bank", bank=9, shop=0),
    ]
    users = group_by_namespace(live)
    found = count_acknowledgements("shop", 3, users["shop"])
    assert (found.version, found.total, found.installed, found.waiting) == (3, 5, 2, ("a", "e", "z"))
    assert count_acknowledgements("bank", 9, users["bank"]).total == 3


def test_a_namespace_about_which_nothing_was_said_waits_for_nobody() -> None:
    found = count_acknowledgements("shop", 0, [sidecar("a", "shop")])
    assert (found.total, found.installed, found.waiting) == (1, 1, ())
