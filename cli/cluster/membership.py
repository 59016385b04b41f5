"""What keeps pods out of the mesh, or from each other: Pod Security, missing sidecars, NetworkPolicies. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from cli.cluster.ca_pod import describe_state, is_ready
from cli.cluster.connection import Object
from cli.cluster.network_policies import MAX_GROUPS, Drop, NetworkPolicies, group_pods
from cli.cluster.snapshot import ClusterSnapshot, has_sidecar
from cli.text.findings import Finding
from cli.text.output import name_some
from shared.model.errors import TouchmarkError
from shared.model.injection.checks import find_node_trait
from shared.model.injection.defaults import read_defaults
from shared.model.kubernetes.contract import INJECT, SIDECAR_CONTAINER, TUNNEL_PORT

_PRIVILEGED: Final = "privileged"
_ENFORCE: Final = "pod-security.kubernetes.io/enforce"
# The webhook is never asked about these.
_OUTSIDE: Final = frozenset({"kube-system", "kube-public", "kube-node-lease"})


def examine_membership(snapshot: ClusterSnapshot) -> list[Finding]:
    """Return a finding for each thing that can keep pods from each other, well or not."""
    return [
        _examine_pod_security(snapshot),
        _examine_requests(snapshot),
        _examine_defaults(snapshot),
        *_examine_pods(snapshot),
        *_examine_network(snapshot),
    ]


def describe_unknown(subject: str, error: TouchmarkError, *, is_optional: bool = True) -> Finding:
    return Finding(
        subject=subject,
        is_well=False,
        is_optional=is_optional,
        observation=f"unknown: {error.message}",
        hint=error.hint,
    )


# ---- pods ------------------------------------------------------------------------------------------------------------


def _examine_pod_security(snapshot: ClusterSnapshot) -> Finding:
    subject = "Pod Security"
    if isinstance(snapshot.namespaces, TouchmarkError):
        return describe_unknown(subject, snapshot.namespaces)
    asking = _list_asking_namespaces(snapshot)
    forbidding = [
        f"{name} enforces {level}"
        for name, labels in sorted(_read_labels(snapshot.namespaces).items())
        if name in asking and (level := labels.get(_ENFORCE, _PRIVILEGED)) != _PRIVILEGED
    ]
    return Finding(
        subject=subject,
        is_well=not forbidding,
        observation=f"forbids injection: {name_some(forbidding)}"
        if forbidding
        else f"allows injection in all {len(asking)} namespaces that ask for it",
        hint=f"capture needs NET_ADMIN: kubectl label namespace NAMESPACE --overwrite {_ENFORCE}=privileged"
        if forbidding
        else "",
    )


def _list_asking_namespaces(snapshot: ClusterSnapshot) -> set[str]:
    labels = {} if isinstance(snapshot.namespaces, TouchmarkError) else _read_labels(snapshot.namespaces)
    asking = {name for name, each in labels.items() if each.get(INJECT) == "true"}
    if not isinstance(snapshot.pods, TouchmarkError):
        asking |= {pod["metadata"]["namespace"] for pod in snapshot.pods if _asks(pod, {}) or has_sidecar(pod)}
    return asking - _OUTSIDE - {snapshot.system_namespace}


def _examine_requests(snapshot: ClusterSnapshot) -> Finding:
    """Look for requests that the API server doesn't see: another word than true or false, or the wrong place for it.

    A namespace asks by its label, a pod by its annotation. Anything else has no effect: such pods stay outside.
    """
    subject = "injection requests"
    for answer in (snapshot.namespaces, snapshot.pods):
        if isinstance(answer, TouchmarkError):
            return describe_unknown(subject, answer)
    assert not isinstance(snapshot.namespaces, TouchmarkError)
    assert not isinstance(snapshot.pods, TouchmarkError)
    outside = _OUTSIDE | {snapshot.system_namespace}
    odd, annotated = [], []
    for namespace in snapshot.namespaces:
        name, labels = namespace["metadata"]["name"], namespace["metadata"].get("labels") or {}
        if name in outside:
            continue
        if labels.get(INJECT, "true") not in ("true", "false"):
            odd.append(f"{name} ({labels[INJECT]!r})")
        elif INJECT not in labels and INJECT in (namespace["metadata"].get("annotations") or {}):
            annotated.append(name)
    labelled = [
        f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
        for pod in snapshot.pods
        if not _is_over(pod) and pod["metadata"]["namespace"] not in outside and _is_mislabelled(pod)
    ]
    faults = [
        (odd, f"namespaces whose label {INJECT} is neither true nor false: "),
        (annotated, f"namespaces with the annotation {INJECT} instead of a label: "),
        (labelled, f"pods with the label {INJECT} instead of an annotation: "),
    ]
    hints = [
        (odd or annotated, f"kubectl label namespace NAMESPACE --overwrite {INJECT}=true"),
        (labelled, f'move it to metadata.annotations of the pod or its template: {INJECT}: "true"'),
    ]
    return Finding(
        subject=subject,
        is_well=not (odd or annotated or labelled),
        observation="; ".join(f"{text}{name_some(names)}" for names, text in faults if names)
        or "all namespaces use the label and all pods the annotation",
        hint="; ".join(text for names, text in hints if names),
    )


def _examine_defaults(snapshot: ClusterSnapshot) -> Finding:
    """Look for annotations of namespaces that can't be used: of a controller's pod nobody reads the warning."""
    subject = "defaults of namespaces"
    if isinstance(snapshot.namespaces, TouchmarkError):
        return describe_unknown(subject, snapshot.namespaces)
    faults, saying = [], 0
    for namespace in snapshot.namespaces:
        defaults = read_defaults(namespace["metadata"].get("annotations") or {})
        saying += bool(defaults.applied)
        faults += [f"{namespace['metadata']['name']}: {fault}" for fault in defaults.faults]
    return Finding(
        subject=subject,
        is_well=not faults,
        observation=f"not applied: {name_some(faults)}"
        if faults
        else f"{saying} namespaces have defaults for sidecars",
        hint="correct them (kubectl annotate namespace NAMESPACE --overwrite NAME=VALUE); pods that are created then"
        " get them"
        if faults
        else "",
    )


def _is_mislabelled(pod: Object) -> bool:
    """Return whether a pod's label asks for something that the pod doesn't have, and no annotation overrides it."""
    metadata = pod["metadata"]
    wish = (metadata.get("labels") or {}).get(INJECT)
    if wish is None or INJECT in (metadata.get("annotations") or {}):
        return False
    return (wish != "false") is not has_sidecar(pod)


def _examine_pods(snapshot: ClusterSnapshot) -> Iterator[Finding]:
    if isinstance(snapshot.pods, TouchmarkError):
        yield describe_unknown("pods", snapshot.pods)
        return
    labels = {} if isinstance(snapshot.namespaces, TouchmarkError) else _read_labels(snapshot.namespaces)
    alive = [pod for pod in snapshot.pods if not _is_over(pod)]
    meshed = [pod for pod in alive if has_sidecar(pod)]
    outside = _OUTSIDE | {snapshot.system_namespace}
    bare = [
        f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
        for pod in alive
        if not has_sidecar(pod)
        and pod["metadata"]["namespace"] not in outside
        and _asks(pod, labels.get(pod["metadata"]["namespace"], {}))
    ]
    yield Finding(
        subject="injection",
        is_well=not bare,
        observation=f"missing the sidecar that they ask for: {name_some(bare)}"
        if bare
        else f"{len(meshed)} pods are in the mesh; none is missing its sidecar",
        hint="created before Touchmark, or while its webhook was down: restart them (kubectl rollout restart)"
        if bare
        else "",
    )
    waiting = [
        f"{pod['metadata']['namespace']}/{pod['metadata']['name']} ({describe_state(pod)})"
        for pod in meshed
        if not is_ready(pod) and not (pod["metadata"].get("deletionTimestamp"))
    ]
    yield Finding(
        subject="injected pods' state",
        is_well=not waiting,
        is_optional=True,
        observation=f"not ready: {name_some(waiting)}" if waiting else f"all {len(meshed)} are ready",
        hint=f"kubectl logs POD -c {SIDECAR_CONTAINER} shows whether it is the sidecar;"
        " `touchmark decisions --denied -k` whether readiness is withheld because a program isn't approved"
        if waiting
        else "",
    )
    images = Counter(image for pod in meshed for image in list_images(pod, (SIDECAR_CONTAINER,)))
    counted = ", ".join(f"{count}× {image}" for image, count in images.most_common())
    yield Finding(
        subject="sidecar images",
        is_well=len(images) <= 1,
        is_optional=True,
        observation=counted or "none in use",
        hint="mixed: pods get the current image when they are recreated" if len(images) > 1 else "",
    )


def _asks(pod: Object, namespace_labels: Mapping[str, str]) -> bool:
    own = (pod["metadata"].get("annotations") or {}).get(INJECT)
    if own is not None:
        return bool(own == "true")
    return namespace_labels.get(INJECT) == "true" and find_node_trait(pod) is None


def _is_over(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


# ---- the network -----------------------------------------------------------------------------------------------------


def _examine_network(snapshot: ClusterSnapshot) -> Iterator[Finding]:
    for answer in (snapshot.network_policies, snapshot.pods, snapshot.namespaces):
        if isinstance(answer, TouchmarkError):
            yield describe_unknown("NetworkPolicies", answer)
            return
    assert not isinstance(snapshot.network_policies, TouchmarkError)
    assert not isinstance(snapshot.pods, TouchmarkError)
    assert not isinstance(snapshot.namespaces, TouchmarkError)
    policies = NetworkPolicies(snapshot.network_policies, _read_labels(snapshot.namespaces))
    groups = group_pods(pod for pod in snapshot.pods if has_sidecar(pod) and not _is_over(pod))
    left_out = len(groups) - MAX_GROUPS
    groups = groups[:MAX_GROUPS]
    drops = policies.find_tunnel_drops(groups)
    cas = [] if isinstance(snapshot.ca_pods, TouchmarkError) else group_pods(snapshot.ca_pods)
    for ca in cas[:1]:
        drops += [*policies.find_stream_drops(groups, ca), *policies.find_webhook_drops(ca)]
    yield from _describe_drops(drops)
    if not drops:
        yield Finding(
            subject="NetworkPolicies",
            is_well=True,
            observation=f"{len(snapshot.network_policies)} policies drop nothing that the mesh needs",
        )
    if left_out > 0:
        yield Finding(
            subject="NetworkPolicies",
            is_well=False,
            is_optional=True,
            observation=f"only {MAX_GROUPS} groups of pods were checked; {left_out} were not",
        )
    yield from _describe_probes(policies.find_probe_drops(groups))


def _describe_drops(drops: Iterable[Drop]) -> Iterator[Finding]:
    """Say it once for each set of policies, side and port: one missing line breaks many pairs."""
    together: dict[tuple[tuple[str, ...], str, int], list[Drop]] = {}
    for drop in drops:
        together.setdefault((drop.policies, drop.side, drop.port), []).append(drop)
    for (policies, side, port), same in together.items():
        pairs = name_some((f"{drop.source} → {drop.destination}" for drop in same), most=3)
        what = "the tunnel, although the application's own port is allowed" if port == TUNNEL_PORT else "it"
        yield Finding(
            subject=f"NetworkPolicy {', '.join(policies)}",
            is_well=False,
            observation=f"{side} drops TCP {port}: {what}: {pairs}".replace(": it:", ":"),
            hint=f"add to the same rule's ports: {{protocol: TCP, port: {port}}}"
            if port == TUNNEL_PORT
            else f"allow {side} of TCP {port} in one of them, or in a further policy",
        )


def _describe_probes(drops: list[Drop]) -> Iterator[Finding]:
    if drops:
        yield Finding(
            subject="NetworkPolicies and probes",
            is_well=False,
            is_optional=True,
            observation=f"no rule allows TCP {drops[0].port} into {name_some(drop.destination for drop in drops)}",
            hint="fine if the network lets a node reach its own pods, as Kubernetes requires",
        )


def _read_labels(namespaces: Iterable[Object]) -> dict[str, dict[str, str]]:
    return {each["metadata"]["name"]: each["metadata"].get("labels") or {} for each in namespaces}


def list_images(pod: Object, names: tuple[str, ...]) -> list[str]:
    """Return the images of a pod's containers of these names."""
    spec: dict[str, Any] = pod.get("spec") or {}
    containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    return [str(container.get("image")) for container in containers if container.get("name") in names]
