"""What would break if the CA were uninstalled now. Pure: judges what the CA, or its cluster, listed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from cli.text.findings import Finding
from shared.model.policy.rules import Mode, NamespaceState
from shared.model.wire.admin import SidecarView


def examine_leaving(namespaces: Iterable[NamespaceState], sidecars: Iterable[SidecarView]) -> list[Finding]:
    """Return what ``judge_leaving`` says of what a CA listed."""
    states = list(namespaces)
    modes = {state.namespace: state.mode for state in states}
    return judge_leaving(modes, list_living(sidecars), list_explicit_workloads(states))


def list_explicit_workloads(namespaces: Iterable[NamespaceState]) -> dict[str, list[str]]:
    """Return the service accounts of workloads that are explicit by a mode of their own, by namespace."""
    return {
        state.namespace: [each.service_account for each in state.workload_modes if each.mode is Mode.EXPLICIT]
        for state in namespaces
    }


def list_living(sidecars: Iterable[SidecarView]) -> dict[str, list[str]]:
    """Return the names of the live sidecars of each namespace."""
    living: dict[str, list[str]] = {}
    for sidecar in sidecars:
        if sidecar.live:
            living.setdefault(sidecar.workload.partition("/")[0], []).append(sidecar.instance)
    return living


def judge_leaving(
    modes: Mapping[str, Mode], living: Mapping[str, Sequence[str]], own: Mapping[str, Sequence[str]] | None = None
) -> list[Finding]:
    """Return a finding for each namespace in which sidecars live, explicit ones first; one where nobody is left.

    Without its CA a sidecar keeps what it has until its certificates end. In an explicit namespace connections of new
    programs, and to addresses that were never looked up, are refused at once; in a permissive one the former travel
    without identity.

    Arguments:
        modes: of namespaces; one without is permissive.
        living: names of sidecars or their pods by namespace.
        own: service accounts of workloads that are explicit by a mode of their own, by namespace.
    """
    own = own or {}
    explicit = {name for name, mode in modes.items() if mode is Mode.EXPLICIT} | {name for name in own if own[name]}
    found = [
        Finding(
            subject=f"namespace {namespace}",
            is_well=False,
            observation=f"{'explicit' if namespace in explicit else 'permissive'}, with {_name(living[namespace])}",
            hint=_say_how_to_leave(namespace, modes.get(namespace, Mode.PERMISSIVE), own.get(namespace, ())),
        )
        for namespace in sorted(living, key=lambda each: (each not in explicit, each))
    ]
    return found or [Finding(subject="sidecars", is_well=True, observation="none is left: nothing breaks")]


def _name(instances: Sequence[str]) -> str:
    count = len(instances)
    named = ", ".join(sorted(instances)[:3]) + (", …" if count > 3 else "")
    return f"{count} live sidecar{'s' if count != 1 else ''} ({named})"


def _say_how_to_leave(namespace: str, mode: Mode, own: Sequence[str]) -> str:
    command = f"touchmark mode {namespace} permissive"
    first = [f"`{command}`"] if mode is Mode.EXPLICIT else []
    first += [f"`{command} --workload {' --workload '.join(own)}`"] if own else []
    before = f"{', '.join(first)}, then " if first else ""
    return f"{before}make its pods anew without the annotation or the namespace's label, or stop its sidecars"
