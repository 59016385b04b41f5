"""What is wrong with a mesh is found, one thing at a time; and nothing is, where nothing is wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from cli.admin.observation import Observation
from cli.admin.overview import (
    LOW_DISK_BYTES,
    count_versions,
    examine,
    examine_disk,
    examine_sidecar_clocks,
    examine_skew,
    list_rows,
)
from cli.text.findings import Finding
from cli.text.output import name_some
from shared.model.version import VERSION
from shared.model.wire.admin import FormerImage, Health, PodView, RefusedEnrolment, RotationStatus, WatchView
from tests.cli.observations import (
    CERTIFICATE,
    NOW,
    OBSERVATION,
    change_ca,
    change_cluster,
    change_sidecar,
    make_authority,
)

LOST_WATCH = WatchView(name="pods", is_synced=True, age_s=300.0, objects=9, restarts=4, lists=1, fault="forbidden")
POD = PodView(namespace="shop", name="old-1", service_account="web", message="another image")
REFUSED = RefusedEnrolment(
    time=NOW - 60, reason="pod_not_injected", message="no sidecar", hint="inject it", namespace="shop", pod="old-1"
)
ENDING = msgspec.structs.replace(CERTIFICATE, not_after=NOW + 9)
PREPARED = RotationStatus(step="prepared", issuer="CN=a", next="CN=b", waiting_for=("w (shop/web)",), is_finished=False)


def find_faults(observed: Observation) -> list[Finding]:
    return [finding for finding in examine(observed, own_version=VERSION) if not finding.is_well]


def test_nothing_is_wrong_where_nothing_is() -> None:
    assert find_faults(OBSERVATION) == []
    assert find_faults(replace(OBSERVATION, cluster=None)) == []


def test_a_certificate_of_another_lifetime_is_overdue_by_its_own() -> None:
    """The CA was upgraded, and its certificates live longer now."""
    certificate = msgspec.structs.replace(CERTIFICATE, issued=NOW - 1500, not_after=NOW + 2100)
    longer = change_ca(leaf_lifetime_s=18_000.0)
    assert find_faults(replace(OBSERVATION, identities=(certificate,), ca=longer)) == []


def test_pods_that_a_namespaces_wish_passes_over_are_named_and_nothing_is_wrong() -> None:
    passed = change_cluster(passed_over=(msgspec.structs.replace(POD, message="host_network"),))
    [finding] = find_faults(replace(OBSERVATION, cluster=passed))
    assert (finding.subject, finding.is_optional) == ("pods passed over", True)
    assert "shop/old-1 (host_network)" in finding.observation


@pytest.mark.parametrize(
    ("subject", "part", "changes"),
    [
        ("CA", "store: gone", {"health": Health(status="bad", checks={"store": "gone"})}),
        ("sidecars", "web-1.abcdef01 (shop/web)", {"sidecars": (change_sidecar(connected=False, last_seen=NOW - 90),)}),
        (
            "sidecars",
            "none of 1 is live, their certificates have expired: web-1.abcdef01 (shop/web)",
            {"sidecars": (change_sidecar(connected=False, live=False),)},
        ),
        (
            "second sidecars",
            "2 refused under the name of web-1.abcdef01 (shop/web), which was connected: last",
            {"sidecars": (change_sidecar(second_count=2, second_at=NOW - 90, second_from="198.18.0.9"),)},
        ),
        ("trust bundle", "number 4 isn't installed", {"sidecars": (change_sidecar(installed_sequence=3),)}),
        ("policies", "web-1.abcdef01", {"sidecars": (change_sidecar(namespace_versions={"shop": 6}),)}),
        ("authorities", "expiring soon: issuing 1", {"ca": change_ca(authorities=(make_authority(ends_in=86_400.0),))}),
        (
            "certificates",
            "overdue for renewal",
            {"identities": (msgspec.structs.replace(CERTIFICATE, not_after=NOW + 9),)},
        ),
        ("certificates", "has expired", {"ca": change_ca(server_not_after=NOW - 1)}),
        (
            "CA's disk",
            "full: no decisions are taken until there is room (3 MiB are left for /var/lib/touchmark)",
            {"ca": change_ca(disk_free_bytes=3 << 20, is_disk_full=True)},
        ),
        ("CA's view of the cluster", "pods: forbidden", {"cluster": change_cluster(watches=(LOST_WATCH,))}),
        ("injection", "shop/old-1", {"cluster": change_cluster(not_injected=(POD,))}),
        ("injected pods", "shop/old-1: another image", {"cluster": change_cluster(unfit=(POD,))}),
        (
            "sidecar image a/s:1",
            "2 pods run it: they lose the mesh in 2 h",
            {"cluster": change_cluster(former_images=(FormerImage(image="a/s:1", pods=2, ends=NOW + 7300),))},
        ),
        ("refused enrolments", "1× pod_not_injected", {"cluster": change_cluster(refused=(REFUSED,), refused_total=1)}),
        ("clocks of the CA and the API server", "90 s apart", {"cluster": change_cluster(clock_skew_s=-90.0)}),
        ("clocks of the CA and its database", "20 s apart", {"ca": change_ca(clock_offset_s=20.0)}),
        (
            "evictions",
            "a restore has undone 2: web-1, shop/db",
            {"ca": change_ca(undone_evictions=("web-1", "shop/db"))},
        ),
    ],
)
def test_each_fault_is_found_alone_with_a_hint(subject: str, part: str, changes: dict[str, Any]) -> None:
    [finding] = find_faults(replace(OBSERVATION, **changes))
    assert finding.subject == subject
    assert part in finding.observation
    assert finding.hint
    assert not finding.is_optional


def test_what_is_left_of_the_disk_is_told_where_the_ca_knows_it() -> None:
    assert examine_disk(change_ca()) == []
    [plenty] = examine_disk(change_ca(disk_free_bytes=LOW_DISK_BYTES))
    assert (plenty.is_well, plenty.observation) == (True, "100 MiB are left for /var/lib/touchmark")
    [low] = examine_disk(change_ca(disk_free_bytes=LOW_DISK_BYTES - 1))
    assert (low.is_well, low.is_optional) == (False, True)
    [full] = examine_disk(change_ca(disk_free_bytes=5 * LOW_DISK_BYTES, is_disk_full=True))
    assert (full.is_well, full.is_optional) == (False, False)


def test_what_passes_by_itself_is_no_fault() -> None:
    just_gone = change_sidecar(connected=False, last_seen=NOW - 10)
    left_long_ago = change_sidecar(instance="gone", connected=False, live=False, installed_sequence=1)
    assert find_faults(replace(OBSERVATION, sidecars=(just_gone, left_long_ago))) == []
    for why in ({"has_stopped": True}, {"evicted": NOW}):
        stopped = change_sidecar(connected=False, live=False, **why)
        assert find_faults(replace(OBSERVATION, sidecars=(stopped,))) == []
    newer = msgspec.structs.replace(CERTIFICATE, not_after=NOW + 9)
    assert find_faults(replace(OBSERVATION, identities=(CERTIFICATE, newer))) == []
    old = msgspec.structs.replace(REFUSED, time=NOW - 7200)
    assert find_faults(replace(OBSERVATION, cluster=change_cluster(refused=(old,), refused_total=1))) == []


def test_a_rotation_that_waits_is_told_but_no_fault() -> None:
    [finding] = find_faults(replace(OBSERVATION, ca=change_ca(rotation=PREPARED)))
    assert finding.is_optional
    assert "b is prepared and waits for w (shop/web)" in finding.observation


def test_a_rotation_that_waits_for_a_disconnected_sidecar_is_a_fault() -> None:
    gone = change_sidecar(connected=False, last_seen=NOW - 10)
    waiting = msgspec.structs.replace(PREPARED, waiting_for=(f"{gone.instance} ({gone.workload})",))
    [finding] = find_faults(replace(OBSERVATION, sidecars=(gone,), ca=change_ca(rotation=waiting)))
    assert (finding.subject, finding.is_optional) == ("rotation", False)


def test_a_roots_rotation_names_what_lacks_it_and_the_tokens_that_pin_the_old_one() -> None:
    waiting = msgspec.structs.replace(
        PREPARED, kind="root", next_root="CN=r2", waiting_for=(), unpublished=("ConfigMap shop/touchmark-trust",)
    )
    [finding] = find_faults(replace(OBSERVATION, ca=change_ca(rotation=waiting)))
    assert "r2 is prepared and waits for ConfigMap shop/touchmark-trust" in finding.observation
    assert "rotate root" in finding.hint
    active = msgspec.structs.replace(waiting, step="active", previous_root="CN=r1", open_tokens=("t1 (shop/db)",))
    findings = examine(replace(OBSERVATION, ca=change_ca(rotation=active)), own_version=VERSION)
    [said] = [each.observation for each in findings if each.subject == "rotation"]
    assert said == "0 certificates of r1 are still alive; join tokens that pin it: t1 (shop/db)"


@pytest.mark.parametrize(
    ("version", "is_optional"),
    [("0.1.9", True), ("0.3.0", True), ("0.4.0", False), ("0.0.9", False), ("1.1.0", False), ("odd", False)],
)
def test_mixed_versions_are_told_and_too_far_apart_is_a_fault(version: str, is_optional: bool) -> None:
    mixed = replace(OBSERVATION, sidecars=(change_sidecar(version=version),))
    [finding] = find_faults(mixed)
    assert (finding.subject, finding.is_optional) == ("versions", is_optional)
    assert count_versions(mixed) == {version: 1}


def test_rows_are_the_namespaces_of_the_mesh_alone() -> None:
    [row] = list_rows(OBSERVATION)
    assert (row.namespace, row.mode, row.version, row.live, row.connected) == ("shop", "explicit", 7, 1, 1)
    assert (row.installed, row.injected, row.not_injected, row.versions) == (1, 1, 0, (VERSION,))
    [row] = list_rows(replace(OBSERVATION, cluster=None, sidecars=(change_sidecar(namespace_versions={}),)))
    assert (row.installed, row.injected) == (0, None)


def test_many_names_are_cut() -> None:
    assert name_some("abc", most=2) == "a, b and 1 more"
    assert name_some([]) == ""


def test_clocks() -> None:
    assert examine_skew("a", "b", -3.0).is_well
    assert not examine_skew("a", "b", 16.0).is_well


def test_a_sidecar_whose_clock_differs_is_named_with_a_hint() -> None:
    assert find_faults(replace(OBSERVATION, sidecars=(change_sidecar(clock_offset_s=-9.0),))) == []
    [finding] = find_faults(replace(OBSERVATION, sidecars=(change_sidecar(clock_offset_s=-300.0),)))
    assert finding.subject == "sidecars' clocks"
    assert finding.observation == "web-1.abcdef01 (shop/web)'s clock is 300 s behind the CA's"
    assert "NTP" in finding.hint
    assert examine_sidecar_clocks([change_sidecar(clock_offset_s=-300.0, live=False)]).is_well, "it has ended"
