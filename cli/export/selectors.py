"""By which labels an engine finds a workload's pods, since most know no service accounts. Pure.

Belongs here: choosing labels that select a service account's pods and no others of its namespace. Doesn't: asking the
API server for pods.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from shared.model.errors import InputError
from shared.model.kubernetes.contract import INJECTED, SIDECAR_CONTAINER

Labels = Mapping[str, str]

# What differs between pods of one template, or is written by injection.
_PER_POD: Final = frozenset(
    {
        "apps.kubernetes.io/pod-index",
        "batch.kubernetes.io/controller-uid",
        "batch.kubernetes.io/job-completion-index",
        "batch.kubernetes.io/job-name",
        "controller-revision-hash",
        "controller-uid",
        "job-name",
        "pod-template-generation",
        "pod-template-hash",
        "statefulset.kubernetes.io/pod-name",
    }
)
_PREFERRED: Final = ("app.kubernetes.io/name", "app", "k8s-app", "app.kubernetes.io/instance", "name")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadPods:
    """How one workload's pods are found.

    Attributes:
        selectors: labels; a pod that has all of one of them is meant.
        ports: TCP ports that their containers name.
        others: an example of another workload whose pods the labels select as well; empty when there is none.
    """

    selectors: tuple[Labels, ...]
    ports: tuple[int, ...] = ()
    others: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selectors:
    """The workloads of a cluster by ``namespace/service-account``; those without a pod are missing.

    Attributes:
        outside: namespaces → pods there that have no sidecar.
    """

    workloads: Mapping[str, WorkloadPods] = field(default_factory=dict)
    outside: Mapping[str, int] = field(default_factory=dict)

    def find(self, workload: str) -> WorkloadPods | None:
        """Return how a workload's pods are found; None: it isn't known."""
        return self.workloads.get(workload)

    def list_accounts(self, namespace: str) -> list[str]:
        """Return a namespace's service accounts that have pods."""
        return sorted(key.partition("/")[2] for key in self.workloads if key.startswith(f"{namespace}/"))


def choose_selectors(pods: Iterable[Mapping[str, Any]], given: Iterable[str] = ()) -> Selectors:
    """Choose labels for each service account that has pods.

    Arguments:
        pods: as the API server lists them.
        given: ``namespace/service-account:key=value,key=value``, each instead of what pods say.

    Raises:
        InputError: one of ``given`` isn't of that form.
    """
    groups: dict[str, dict[tuple[tuple[str, str], ...], list[int]]] = {}
    outside: dict[str, int] = {}
    for pod in pods:
        metadata, spec = pod.get("metadata") or {}, pod.get("spec") or {}
        if spec.get("hostNetwork") or (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
            continue
        namespace = metadata.get("namespace") or ""
        labels = tuple(
            sorted((key, value) for key, value in (metadata.get("labels") or {}).items() if key not in _PER_POD)
        )
        if INJECTED not in (metadata.get("annotations") or {}):
            outside[namespace] = outside.get(namespace, 0) + 1
        workload = f"{namespace}/{spec.get('serviceAccountName') or 'default'}"
        groups.setdefault(workload, {}).setdefault(labels, []).extend(_list_ports(spec))
    found = {workload: _choose(workload, of, groups) for workload, of in groups.items()}
    for text in given:
        workload, named = _parse(text)
        known = found.get(workload)
        found[workload] = WorkloadPods(selectors=(named,), ports=known.ports if known else ())
    return Selectors(workloads=dict(sorted(found.items())), outside=outside)


def _list_ports(spec: Mapping[str, Any]) -> list[int]:
    return [
        port["containerPort"]
        for container in spec.get("containers") or ()
        for port in container.get("ports") or ()
        if port.get("protocol", "TCP") == "TCP" and container.get("name") != SIDECAR_CONTAINER
    ]


def _choose(
    workload: str,
    of: Mapping[tuple[tuple[str, str], ...], list[int]],
    groups: Mapping[str, Mapping[tuple[tuple[str, str], ...], object]],
) -> WorkloadPods:
    namespace = workload.partition("/")[0]
    foreign = [
        (other, set(labels))
        for other, each in sorted(groups.items())
        if other != workload and other.partition("/")[0] == namespace
        for labels in each
    ]
    common = set.intersection(*(set(labels) for labels in of))
    selectors: list[Labels] = []
    others = ""
    for candidates in [common] if _find_exact(common, foreign) else sorted(map(set, of), key=sorted):
        exact = _find_exact(candidates, foreign)
        chosen = dict(sorted(candidates)) if exact is None else exact
        if exact is None and foreign:
            others = next(other for other, labels in foreign if candidates <= labels)
        if chosen not in selectors:
            selectors.append(chosen)
    ports = tuple(sorted({port for each in of.values() for port in each}))
    return WorkloadPods(selectors=tuple(selectors), ports=ports, others=others)


def _find_exact(candidates: set[tuple[str, str]], foreign: list[tuple[str, set[tuple[str, str]]]]) -> Labels | None:
    """Return one label, else all of them, that no other workload's pod has; None when all of them don't do."""
    order = sorted(candidates, key=lambda each: (_rank(each[0]), each))
    for label in order:
        if not any(label in labels for _, labels in foreign):
            return dict([label])
    if candidates and not any(candidates <= labels for _, labels in foreign):
        return dict(sorted(candidates))
    return None


def _rank(key: str) -> int:
    return _PREFERRED.index(key) if key in _PREFERRED else len(_PREFERRED)


def _parse(text: str) -> tuple[str, Labels]:
    workload, _, rest = text.partition(":")
    pairs = [each.partition("=") for each in rest.split(",")]
    if workload.count("/") != 1 or not all(key and sign for key, sign, _ in pairs):
        raise InputError(f"not a workload's labels: {text[:80]!r}", hint="--pods shop/web:app=web,tier=front")
    return workload, {key: value for key, _, value in pairs}
