"""The mesh at a glance: the CA's status, its sidecars and namespaces, and what is wrong with them. Pure.

Belongs here: rows and findings made of the admin API's answers. Doesn't: the requests (``observation.py``), or
what only a cluster's API server knows (``cli/cluster/examination.py``).
Longer than most by the number of findings: each is a few lines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from cli.admin.observation import Observation
from cli.text.duration import format_duration, format_time
from cli.text.findings import Finding
from cli.text.output import MAX_NAMED, name_authority, name_some
from shared.model.kubernetes.contract import INJECT
from shared.model.policy.rules import Mode, NamespaceState, WorkloadMode
from shared.model.trust.bundle import AuthorityPhase
from shared.model.wire.admin import (
    AuthorityView,
    CAStatus,
    ClusterNamespace,
    ClusterStatus,
    FormerImage,
    IdentityView,
    PodView,
    SidecarView,
)
from shared.model.wire.clock_offset import NOTABLE_S, describe_offset, is_notable

# A sidecar that lost its stream has it again in seconds.
SILENT_AFTER_S: Final = 60.0
ENDING_S: Final = 30 * 86_400.0
LOW_DISK_BYTES: Final = 100 * 1024 * 1024  # As in manifests/monitoring/rules.yaml.
MAX_SKEW_S: Final = 15.0
RECENT_S: Final = 3600.0
INCIDENT_S: Final = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceRow:
    """One namespace.

    Attributes:
        mode: None: never set, which means permissive.
        live: sidecars with a stream or an unexpired certificate; ``connected``: with a stream.
        installed: live ones that have the namespace's current version.
        injected, not_injected: pods; None outside a cluster. ``not_injected`` ask for a sidecar and have none.
        versions: of its live sidecars.
        workload_modes: of workloads with a mode of their own.
    """

    namespace: str
    mode: Mode | None
    version: int
    live: int
    connected: int
    installed: int
    injected: int | None
    not_injected: int | None
    versions: tuple[str, ...]
    workload_modes: tuple[WorkloadMode, ...] = ()


def list_rows(observed: Observation) -> list[NamespaceRow]:
    """Return the namespaces that have anything to do with the mesh, by name."""
    states = {state.namespace: state for state in observed.namespaces}
    pods = {each.namespace: each for each in observed.cluster.namespaces} if observed.cluster else {}
    meshed = {each.namespace for each in pods.values() if each.wanted or each.injected or each.is_labelled}
    sidecars: dict[str, list[SidecarView]] = {}
    for sidecar in observed.sidecars:
        if sidecar.live:
            sidecars.setdefault(sidecar.workload.partition("/")[0], []).append(sidecar)
    return [
        _make_row(name, states.get(name), sidecars.get(name, []), pods.get(name), is_in_cluster=bool(observed.cluster))
        for name in sorted({*states, *meshed, *sidecars})
    ]


def _make_row(
    name: str,
    state: NamespaceState | None,
    sidecars: Sequence[SidecarView],
    pods: ClusterNamespace | None,
    *,
    is_in_cluster: bool,
) -> NamespaceRow:
    version = state.version if state else 0
    injected, not_injected = (pods.injected, max(0, pods.wanted - pods.injected)) if pods else (0, 0)
    return NamespaceRow(
        namespace=name,
        mode=state.mode if state else None,
        version=version,
        live=len(sidecars),
        connected=sum(sidecar.connected for sidecar in sidecars),
        installed=sum(sidecar.namespace_versions.get(name, 0) >= version for sidecar in sidecars),
        injected=injected if is_in_cluster else None,
        not_injected=not_injected if is_in_cluster else None,
        versions=tuple(sorted({sidecar.version for sidecar in sidecars})),
        workload_modes=state.workload_modes if state else (),
    )


def count_versions(observed: Observation) -> dict[str, int]:
    """Return how many live sidecars run which version, the most frequent first."""
    return dict(Counter(sidecar.version for sidecar in observed.sidecars if sidecar.live).most_common())


def examine(observed: Observation, *, own_version: str) -> list[Finding]:
    """Return a finding for each thing that can be wrong, well or not."""
    findings = [
        _examine_health(observed),
        _examine_versions(observed, own_version),
        _examine_streams(observed),
        _examine_seconds(observed),
        examine_sidecar_clocks(observed.sidecars),
        _examine_bundles(observed),
        _examine_policies(observed),
        _examine_authorities(observed.ca),
        _examine_renewals(observed),
        _examine_rotation(observed),
        *examine_disk(observed.ca),
        *examine_database_clock(observed.ca),
        *examine_undone_evictions(observed.ca),
    ]
    return findings + (_examine_cluster(observed.cluster, observed.ca.now) if observed.cluster else [])


def _examine_health(observed: Observation) -> Finding:
    faults = [f"{name}: {fault}" for name, fault in observed.health.checks.items() if fault != "ok"]
    is_well = observed.health.status == "ok"
    said = "signs and reaches its store" if is_well else "; ".join(faults) or observed.health.status
    up = format_duration(observed.ca.now - observed.ca.started)
    return Finding(
        subject="CA",
        is_well=is_well,
        observation=f"{observed.ca.trust_domain}, up {up}, {said}",
        hint="" if is_well else "check the CA's log",
    )


def _examine_versions(observed: Observation, own_version: str) -> Finding:
    found = count_versions(observed)
    others = {version: count for version, count in found.items() if version != observed.ca.version}
    far = [version for version in {*others, own_version} if not _is_near(version, observed.ca.version)]
    counts = ", ".join(f"{count} of {version}" for version, count in found.items()) or "none"
    is_mixed = bool(others) or own_version != observed.ca.version
    hint = "versions may differ by one minor version; restart the pods of old sidecars" if is_mixed else ""
    return Finding(
        subject="versions",
        is_well=not is_mixed,
        is_optional=not far,
        observation=f"CA {observed.ca.version}, this command {own_version}, sidecars: {counts}",
        hint=f"too far from the CA's version: {', '.join(sorted(far))}; {hint}" if far else hint,
    )


def _is_near(version: str, other: str) -> bool:
    """Return whether two versions work together: at most one minor version apart."""
    try:
        (major, minor), (other_major, other_minor) = (
            [int(part) for part in text.split(".")[:2]] for text in (version, other)
        )
    except ValueError:
        return version == other
    return major == other_major and abs(minor - other_minor) <= 1


def _examine_streams(observed: Observation) -> Finding:
    live = [sidecar for sidecar in observed.sidecars if sidecar.live]
    silent = [s for s in live if not s.connected and observed.ca.now - s.last_seen > SILENT_AFTER_S]
    # One that is gone beside others that live was taken away; where none lives any more, the mesh has gone down.
    lost = [] if live else [s for s in observed.sidecars if s.evicted is None and not s.has_stopped]
    if lost:
        renewable = sum((s.renewable_until or 0.0) > observed.ca.now for s in lost)
        return Finding(
            subject="sidecars",
            is_well=False,
            observation=f"none of {len(lost)} is live, their certificates have expired: {name_some(map(_name, lost))}",
            hint="check that they run and reach the CA; outside Kubernetes they need new join tokens"
            + (f", but for {renewable} that may come back by their renewal keys" if renewable else ""),
        )
    return Finding(
        subject="sidecars",
        is_well=not silent,
        observation=f"{sum(sidecar.connected for sidecar in live)} connected of {len(live)} live"
        + (f"; disconnected: {name_some(_name(s) for s in silent)}" if silent else ""),
        hint="their certificates will expire; check their logs, and whether they reach the CA" if silent else "",
    )


def _examine_seconds(observed: Observation) -> Finding:
    """Look for sidecars under whose name a second one came while they were alive."""
    since = observed.ca.now - INCIDENT_S
    met = sorted((s for s in observed.sidecars if (s.second_at or 0.0) > since), key=lambda s: -(s.second_at or 0.0))
    return Finding(
        subject="second sidecars",
        is_well=not met,
        observation="; ".join(
            f"{s.second_count} refused under the name of {_name(s)},"
            f" which {'was connected' if s.evicted is None else 'is evicted since'}:"
            f" last {format_time(s.second_at or 0)} from {s.second_from or 'an unknown address'}"
            for s in met[:MAX_NAMED]
        )
        or "none in the last 24 hours",
        hint="one of both isn't genuine: find out who can make or read the pod's token, or read the state directory on"
        " a machine; delete the pod, or `touchmark ca evict` its sidecar"
        if met
        else "",
    )


def examine_sidecar_clocks(sidecars: Iterable[SidecarView]) -> Finding:
    """Return whether the clocks of live sidecars agree with the CA's, as measured when each opened its stream."""
    known = [s for s in sidecars if s.live and s.clock_offset_s is not None]
    far = sorted((s for s in known if is_notable(s.clock_offset_s)), key=lambda s: -abs(s.clock_offset_s or 0.0))
    differing = name_some(describe_offset(f"{_name(s)}'s", s.clock_offset_s or 0.0) for s in far)
    return Finding(
        subject="sidecars' clocks",
        is_well=not far,
        observation=differing or (f"within {NOTABLE_S:.0f} s of the CA's" if known else "not measured yet"),
        hint="certificates are only valid by a right clock: synchronise these machines' and the CA's with NTP"
        if far
        else "",
    )


def _examine_bundles(observed: Observation) -> Finding:
    sequence = observed.ca.bundle_sequence
    stale = [s for s in observed.sidecars if s.connected and s.installed_sequence < sequence]
    return Finding(
        subject="trust bundle",
        is_well=not stale,
        observation=f"number {sequence} is installed everywhere"
        if not stale
        else f"number {sequence} isn't installed in {name_some(_name(s) for s in stale)}",
        hint="a rotation waits for them; restart sidecars that don't catch up" if stale else "",
    )


def _examine_policies(observed: Observation) -> Finding:
    versions = {state.namespace: state.version for state in observed.namespaces}
    stale = []
    for sidecar in observed.sidecars:
        namespace = sidecar.workload.partition("/")[0]
        if sidecar.connected and sidecar.namespace_versions.get(namespace, 0) < versions.get(namespace, 0):
            stale.append(sidecar)
    return Finding(
        subject="policies",
        is_well=not stale,
        observation="in force everywhere"
        if not stale
        else f"their namespace's current version isn't in force in {name_some(_name(s) for s in stale)}",
        hint="`touchmark mode NAMESPACE` lists the sidecars that lag" if stale else "",
    )


def _examine_authorities(ca: CAStatus) -> Finding:
    active = [each for each in ca.authorities if each.phase is AuthorityPhase.ACTIVE]
    ending = [each for each in active if _is_ending(each, ca.now)]
    named = ", ".join(f"{name_authority(a.subject)} until {format_time(a.not_after)}" for a in ending or active)
    hints = {
        "issuing": "touchmark ca rotate issuer",
        "root": "touchmark ca rotate root; until then certificates get a shorter lifetime",
    }
    return Finding(
        subject="authorities",
        is_well=not ending,
        observation=f"{'expiring soon: ' if ending else ''}{named or 'none active'}",
        hint="; ".join(hints.get(each.kind, "") for each in ending),
    )


def examine_disk(ca: CAStatus) -> list[Finding]:
    """Return what is left for the CA's store; nothing where the CA doesn't know it."""
    if ca.disk_free_bytes is None:
        return []
    left = f"{ca.disk_free_bytes / 2**20:,.0f} MiB are left for {ca.data_dir}"
    if ca.is_disk_full:
        left = f"full: no decisions are taken until there is room ({left})"
    is_well = not ca.is_disk_full and ca.disk_free_bytes >= LOW_DISK_BYTES
    return [
        Finding(
            subject="CA's disk",
            is_well=is_well,
            is_optional=not ca.is_disk_full,
            observation=left,
            hint=""
            if is_well
            else "make room there; `--decisions-max-bytes` and `--edges-max-bytes` of the CA bound it",
        )
    ]


def examine_database_clock(ca: CAStatus) -> list[Finding]:
    """Return whether the CA's clock is that of its database; nothing where the database is a file."""
    return [] if ca.clock_offset_s is None else [examine_skew("the CA", "its database", -ca.clock_offset_s)]


def examine_undone_evictions(ca: CAStatus) -> list[Finding]:
    """Return whom a restore has let in again; nothing where it has nobody."""
    if not (undone := ca.undone_evictions):
        return []
    return [
        Finding(
            subject="evictions",
            is_well=False,
            observation=f"a restore has undone {len(undone)}: {name_some(undone)}",
            hint="`touchmark ca evict NAME` evicts again; with --dismiss it stays undone",
        )
    ]


def _is_ending(authority: AuthorityView, now: float) -> bool:
    return authority.not_after - now < min(ENDING_S, (authority.not_after - authority.not_before) / 5)


def _examine_renewals(observed: Observation) -> Finding:
    """Look at sidecars' own certificates: a program's is only renewed while the program has connections."""
    connected = {sidecar.instance for sidecar in observed.sidecars if sidecar.connected}
    newest: dict[str, IdentityView] = {}
    for identity in observed.identities:
        if identity.kind == "sidecar" and identity.instance in connected:
            known = newest.get(identity.instance)
            newest[identity.instance] = identity if known is None or identity.not_after > known.not_after else known
    # By its own life: another release of the CA, or other settings, may have issued it for longer or shorter.
    now = observed.ca.now
    late = sorted(name for name, last in newest.items() if last.not_after - now < (last.not_after - last.issued) / 4)
    server_s = observed.ca.server_not_after - observed.ca.now
    if server_s <= 0:
        return Finding(
            subject="certificates",
            is_well=False,
            observation="the CA's server certificate has expired",
            hint="restart the CA and check its clock",
        )
    return Finding(
        subject="certificates",
        is_well=not late,
        observation=f"{observed.ca.certificates_alive} alive; none overdue for renewal"
        if not late
        else f"overdue for renewal: {name_some(late)}",
        hint="certificates are renewed at half their lifetime; check these sidecars' logs" if late else "",
    )


def _examine_rotation(observed: Observation) -> Finding:
    rotation = observed.ca.rotation
    disconnected = {_name(sidecar) for sidecar in observed.sidecars if not sidecar.connected}
    is_waiting = rotation.step == "prepared"
    if is_waiting:
        awaited = name_some((*rotation.waiting_for, *rotation.unpublished))
        prepared = name_authority(rotation.next_root or rotation.next)
        said = f"{prepared} is prepared and waits for {awaited or 'its minimum wait'}"
    elif rotation.step == "active" and not rotation.is_finished:
        replaced = name_authority(rotation.previous_root or rotation.previous)
        tokens = f"; join tokens that pin it: {name_some(rotation.open_tokens)}" if rotation.open_tokens else ""
        said = f"{rotation.previous_alive} certificates of {replaced} are still alive{tokens}"
    else:
        said = "none in progress"
    return Finding(
        subject="rotation",
        is_well=not is_waiting,
        # What is connected catches up in a moment, or is a fault of the bundle's; what isn't may never.
        is_optional=disconnected.isdisjoint(rotation.waiting_for),
        observation=said,
        hint=f"`touchmark ca rotate {rotation.kind} --force` activates it without waiting" if is_waiting else "",
    )


def _examine_cluster(cluster: ClusterStatus, now: float) -> list[Finding]:
    return [
        _examine_watches(cluster),
        _examine_missing_sidecars(cluster.not_injected),
        Finding(
            subject="injected pods",
            is_well=not cluster.unfit,
            observation="all can join"
            if not cluster.unfit
            else "can't join: " + "; ".join(f"{_name_pod(p)}: {p.message}" for p in cluster.unfit[:MAX_NAMED]),
            hint="recreate these pods from their template" if cluster.unfit else "",
        ),
        *_examine_passed_over(cluster.passed_over),
        *_examine_former_images(cluster.former_images, now),
        _examine_refusals(cluster, now),
        *_examine_skew(cluster),
    ]


def _examine_watches(cluster: ClusterStatus) -> Finding:
    faults = [f"{w.name}: {w.fault or 'not listed yet'}" for w in cluster.watches if w.fault or not w.is_synced]
    return Finding(
        subject="CA's view of the cluster",
        is_well=not faults,
        observation="; ".join(faults) or f"watches {', '.join(watch.name for watch in cluster.watches)}",
        hint="the CA continues with its last known state; check its log and permissions" if faults else "",
    )


def _examine_missing_sidecars(pods: Sequence[PodView]) -> Finding:
    return Finding(
        subject="injection",
        is_well=not pods,
        observation="every pod that asks for a sidecar has one"
        if not pods
        else f"missing the sidecar that they ask for: {name_some(_name_pod(pod) for pod in pods)}",
        hint="created before Touchmark, or while its webhook was down: restart them (kubectl rollout restart)"
        if pods
        else "",
    )


def _examine_passed_over(pods: Sequence[PodView]) -> Iterator[Finding]:
    """Say which pods a namespace's wish passes over: nothing is wrong, but they stay outside the mesh."""
    if pods:
        yield Finding(
            subject="pods passed over",
            is_well=False,
            is_optional=True,
            observation="without a sidecar in namespaces that ask for one: "
            + name_some(f"{_name_pod(pod)} ({pod.message})" for pod in pods),
            hint=f'they are the node\'s own; {INJECT}: "false" on their template says that this is meant',
        )


def _examine_former_images(images: Sequence[FormerImage], now: float) -> Iterator[Finding]:
    for each in images:
        is_over = each.ends <= now
        yield Finding(
            subject=f"sidecar image {each.image}",
            is_well=False,
            observation=f"--sidecar-image no longer names it, and {each.pods} pods run it: they "
            + ("have lost the mesh" if is_over else f"lose the mesh in {format_duration(each.ends - now)}"),
            hint="name it behind the new one (TOUCHMARK_SIDECAR_IMAGE) until their pods are recreated",
        )


def _examine_refusals(cluster: ClusterStatus, now: float) -> Finding:
    recent = [each for each in cluster.refused if now - each.time < RECENT_S]
    reasons = Counter(each.reason for each in recent)
    latest = {each.reason: each for each in reversed(recent)}
    said = "; ".join(
        f"{count}× {reason}, last {latest[reason].namespace or '?'}/{latest[reason].pod or latest[reason].claimed}:"
        f" {latest[reason].message}"
        for reason, count in reasons.most_common(MAX_NAMED)
    )
    return Finding(
        subject="refused enrolments",
        is_well=not recent,
        observation=said or f"none in the last hour ({cluster.refused_total} since the CA started)",
        hint="; ".join(dict.fromkeys(latest[reason].hint for reason in reasons if latest[reason].hint)),
    )


def _examine_skew(cluster: ClusterStatus) -> Iterator[Finding]:
    if cluster.clock_skew_s is not None:
        yield examine_skew("the CA", "the API server", cluster.clock_skew_s)


def examine_skew(here: str, there: str, skew_s: float) -> Finding:
    """Return whether two clocks agree; ``skew_s``: the second's minus the first's."""
    is_well = abs(skew_s) <= MAX_SKEW_S
    return Finding(
        subject=f"clocks of {here} and {there}",
        is_well=is_well,
        observation=f"{abs(skew_s):.0f} s apart",
        hint="" if is_well else "certificates and tokens depend on the clock: synchronise it with NTP",
    )


def _name(sidecar: SidecarView) -> str:
    return f"{sidecar.instance} ({sidecar.workload})"


def _name_pod(pod: PodView) -> str:
    return f"{pod.namespace}/{pod.name}"
