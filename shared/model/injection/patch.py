"""Injection of the sidecar into a pod: asked? → restore → check → rewrite → place → patch. Pure.

Belongs here: the story. Doesn't: annotations (``settings.py``), reasons to refuse (``checks.py``),
probes (``probes.py``), what our containers look like (``containers.py``), or the webhook.

A pod may have been injected already: another webhook changed it afterwards and the API server asks again, or
``touchmark inject`` was there first. No annotation is trusted about that. What has our names is removed, the
original pod is restored, and everything is done again: where nothing differs, the patch is empty; a look-alike or a
changed container of ours is replaced.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import msgspec

from shared.model.injection.checks import check_namespace, check_pod, check_targets, find_node_trait
from shared.model.injection.containers import (
    OWN_CONTAINERS,
    OWN_VOLUMES,
    InjectionOptions,
    find_ca_host,
    is_unchanged,
    make_capture_container,
    make_sidecar_container,
    make_volumes,
)
from shared.model.injection.defaults import read_defaults
from shared.model.injection.json_patch import Operation, make_patch
from shared.model.injection.pod_json import (
    Json,
    get_annotations,
    get_number,
    get_object,
    get_objects,
    get_text,
    list_containers,
)
from shared.model.injection.probes import Targets, decode_targets, find_secret, restore_probes, rewrite_probes
from shared.model.injection.refusals import InjectionRefusal, InjectionRefusedError
from shared.model.injection.settings import Settings, read_settings
from shared.model.kubernetes.contract import DRAIN_SECONDS, INJECT, INJECTED, PROBES_VARIABLE, SIDECAR_CONTAINER

# The API server's picture of a pod that a kubelet runs from a file: changing it would change nothing.
MIRROR_ANNOTATION = "kubernetes.io/config.mirror"
DEFAULT_GRACE_S = 30  # Of pods that don't say it: Kubernetes' own default.


class Injection(msgspec.Struct, frozen=True, kw_only=True):
    """What injection does to a pod.

    Attributes:
        patch: the operations; none when the pod is injected already, exactly so, or is passed over.
        warnings: sentences for the user who creates the pod.
        passed_over: why the pod gets no sidecar though its namespace asks for one; None: it gets it.
    """

    patch: tuple[Operation, ...]
    warnings: tuple[str, ...] = ()
    passed_over: InjectionRefusal | None = None


def is_asked(pod: Json, namespace_labels: Mapping[str, str] | None) -> bool:
    """Return whether a pod asks for injection: by its own annotation, else by its namespace's label.

    Raises:
        InjectionRefusedError: the annotation is neither "true" nor "false".
    """
    annotations = get_annotations(pod)
    if MIRROR_ANNOTATION in annotations:
        return False
    word = annotations.get(INJECT)
    if word is None:
        return (namespace_labels or {}).get(INJECT) == "true"
    if word not in {"true", "false"}:
        raise InjectionRefusedError(
            InjectionRefusal.BAD_ANNOTATION,
            f"neither true nor false: {word[:80]!r}",
            path=f'metadata.annotations["{INJECT}"]',
            hint='write "true" or "false", in quotes',
        )
    return word == "true"


def inject(
    pod: Json,
    *,
    namespace: str,
    namespace_labels: Mapping[str, str] | None,
    namespace_annotations: Mapping[str, str] | None = None,
    options: InjectionOptions,
) -> Injection | None:
    """Make the patch that puts the sidecar into a pod; None when the pod didn't ask for it.

    Arguments:
        pod: a pod, or a pod's template: ``metadata`` and ``spec`` as JSON. It isn't changed.
        namespace: in which it is created.
        namespace_labels: that namespace's; None when they aren't known.
        namespace_annotations: the same; those of ours are defaults for the pod's own.

    Raises:
        InjectionRefusedError: the pod asked, and can't or mustn't have it.
    """
    if not is_asked(pod, namespace_labels):
        return None
    check_namespace(namespace, namespace_labels, own_namespace=options.own_namespace)
    defaults = read_defaults(namespace_annotations or {})
    settings = read_settings(get_annotations(pod), defaults.settings)
    # A namespace asks for its applications. A pod of the node's own (a DaemonSet's) can't be one, unless it says so.
    if INJECT not in get_annotations(pod) and (trait := find_node_trait(pod)) is not None:
        return Injection(patch=(), warnings=(_say_passed_over(*trait),), passed_over=trait[0])
    former = _find_targets(pod)
    injected = restore(pod)
    check_pod(injected, ca_host=find_ca_host(options))
    targets = rewrite_probes(
        injected,
        OWN_CONTAINERS,
        secret=find_secret(former) or options.draw_path_secret(),
        excluded_ports=settings.exclude_inbound_ports,
    )
    check_targets(targets)
    own = [make_capture_container(settings, options), make_sidecar_container(settings, options, targets)]
    _place(injected, pod, own, make_volumes(options))
    injected["metadata"] = {
        **get_object(injected, "metadata", "pod"),
        "annotations": {**get_annotations(injected), INJECTED: options.version},
    }
    return Injection(
        patch=make_patch(pod, injected),
        warnings=(
            *_warn(pod, settings, options),
            *(f"touchmark: not applied from the namespace {namespace}: {fault}" for fault in defaults.faults),
        ),
    )


def restore(pod: Json) -> Json:
    """Return a copy of the pod without anything that injection puts there.

    Containers and volumes of ours go by their names; probes get their targets back. A foreign container that uses one
    of our volumes keeps its mount, which ``check_pod`` refuses or which the API server finds dangling.

    Raises:
        InjectionRefusedError: the pod only looks injected: what its probes were isn't known.
    """
    pod = copy.deepcopy(pod)
    spec = get_object(pod, "spec", "pod")
    if not spec:
        raise InjectionRefusedError(InjectionRefusal.MALFORMED_POD, "a pod without `spec`")
    restore_probes(pod, _find_targets(pod), OWN_CONTAINERS)
    if any(each.name in OWN_CONTAINERS for each in list_containers(pod, "initContainers")):
        # Once injected, the pod no longer tells whether it had asked for a shared process namespace itself. "false"
        # beside our containers is a later change, or a look-alike: check_pod refuses it.
        for key, names in (("initContainers", OWN_CONTAINERS), ("volumes", OWN_VOLUMES)):
            kept = [each for each in get_objects(spec, key, "spec") if each.get("name") not in names]
            spec[key] = kept
            if not kept:
                del spec[key]
    return pod


def _find_targets(pod: Json) -> Targets:
    """Return the targets in the pod's sidecar; none when it has no sidecar."""
    for container in list_containers(pod, "initContainers"):
        if container.name != SIDECAR_CONTAINER:
            continue
        for variable in get_objects(container.body, "env", "spec.initContainers"):
            if variable.get("name") == PROBES_VARIABLE:
                return decode_targets(get_text(variable, "value", "spec.initContainers.env") or "[]")
        break
    return {}


def _place(injected: Json, found: Json, own: list[Json], volumes: list[Json]) -> None:
    """Put our containers first and our volumes last; existing equal ones stay unchanged in their place."""
    spec, found_spec = injected["spec"], found["spec"]
    present = {each.get("name"): each for each in found_spec.get("initContainers") or []}
    mine = [
        present[container["name"]]
        if container["name"] in present and is_unchanged(present[container["name"]], container)
        else container
        for container in own
    ]
    spec["initContainers"] = [*copy.deepcopy(mine), *(spec.get("initContainers") or [])]
    wanted = {volume["name"]: volume for volume in volumes}
    foreign = {each.get("name") for each in spec.get("volumes") or []}
    placed: list[Json] = []
    for volume in found_spec.get("volumes") or []:
        name: Any = volume.get("name")
        if name in foreign:
            placed.append(volume)
        elif name in wanted:
            placed.append(wanted.pop(name))
    spec["volumes"] = [*copy.deepcopy(placed), *wanted.values()]
    spec["shareProcessNamespace"] = True


def _say_passed_over(refusal: InjectionRefusal, trait: str) -> str:
    return (
        f"touchmark: the pod {trait} and gets no sidecar ({refusal}): explicit namespaces refuse it."
        f' {INJECT}: "false" on its template says so for good'
    )


def _warn(pod: Json, settings: Settings, options: InjectionOptions) -> tuple[str, ...]:
    spec = get_object(pod, "spec", "pod")
    warnings = []
    policy = get_text(spec, "dnsPolicy", "spec")
    host = find_ca_host(options)
    if policy in {"Default", "None"} and host.endswith(".svc"):
        warnings.append(f"touchmark: with dnsPolicy {policy} the sidecar may not resolve its CA's name, {host}")
    grace = get_number(spec, "terminationGracePeriodSeconds", "spec")
    grace_s = DEFAULT_GRACE_S if grace is None else grace
    if settings.drain_s is not None and settings.drain_s >= grace_s:
        warnings.append(
            f"touchmark: {DRAIN_SECONDS} is {settings.drain_s}, but the pod is killed after"
            f" {grace_s} s (terminationGracePeriodSeconds)"
        )
    return tuple(warnings)
