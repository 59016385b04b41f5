"""Objects that hold a pod's template, from Pod to CronJob, and lists of them. Pure.

Belongs here: where in each kind the template stands. Doesn't: injection itself, or YAML.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from shared.model.injection.containers import InjectionOptions
from shared.model.injection.json_patch import apply_patch
from shared.model.injection.patch import Injection, inject
from shared.model.injection.pod_json import Json, get_annotations, get_object, get_text
from shared.model.injection.refusals import InjectionRefusal, InjectionRefusedError
from shared.model.kubernetes.contract import INJECT

MAX_LIST_DEPTH: Final = 4
_TEMPLATE: Final = ("spec", "template")
# API group and kind → where the pod stands.
_PLACES: Final[dict[tuple[str, str], tuple[str, ...]]] = {
    ("", "Pod"): (),
    ("", "ReplicationController"): _TEMPLATE,
    ("apps", "Deployment"): _TEMPLATE,
    ("apps", "StatefulSet"): _TEMPLATE,
    ("apps", "DaemonSet"): _TEMPLATE,
    ("apps", "ReplicaSet"): _TEMPLATE,
    ("batch", "Job"): _TEMPLATE,
    ("batch", "CronJob"): ("spec", "jobTemplate", *_TEMPLATE),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A pod or pod's template within a document.

    Attributes:
        kind, name: of the object that holds it.
        namespace: which it names; empty when it names none.
        place: keys and indexes that lead to it from the document's root.
        pod: ``metadata`` and ``spec``.
    """

    kind: str
    name: str
    namespace: str
    place: tuple[str | int, ...]
    pod: Json

    @property
    def path(self) -> str:
        """The place as people read it, such as ``items[2].spec.template``."""
        text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.place)
        return text.removeprefix(".")


def find_templates(document: Any, place: tuple[str | int, ...] = ()) -> Iterator[Template]:
    """Find the pods' templates in a document; none in kinds that hold none.

    Raises:
        InjectionRefusedError: an object of such a kind hasn't its shape, or lists nest too deeply.
    """
    if not isinstance(document, dict):
        return
    version, kind = document.get("apiVersion"), document.get("kind")
    if not isinstance(version, str) or not isinstance(kind, str):
        return
    group = version.rpartition("/")[0]
    if kind == "List" or (kind.endswith("List") and (group, kind.removesuffix("List")) in _PLACES):
        if len(place) >= 2 * MAX_LIST_DEPTH:
            raise InjectionRefusedError(InjectionRefusal.MALFORMED_POD, "lists are nested too deeply")
        items = document.get("items")
        for index, item in enumerate(items if isinstance(items, list) else []):
            # The items of a PodList leave out what the list says for all of them.
            typed = {"apiVersion": version, "kind": kind.removesuffix("List"), **item} if _lacks_type(item) else item
            yield from find_templates(typed, (*place, "items", index))
        return
    steps = _PLACES.get((group, kind))
    if steps is None:
        return
    metadata = get_object(document, "metadata", "")
    pod, path = document, ""
    for step in steps:
        pod = get_object(pod, step, path)
        path = f"{path}.{step}".removeprefix(".")
    yield Template(
        kind=kind,
        name=get_text(metadata, "name", "metadata") or get_text(metadata, "generateName", "metadata"),
        namespace=get_text(metadata, "namespace", "metadata"),
        place=(*place, *steps),
        pod=pod,
    )


def find_namespaces(document: Any) -> Iterator[tuple[str, dict[str, str]]]:
    """Find the Namespaces in a document: each one's name and annotations.

    Raises:
        InjectionRefusedError: one hasn't its shape.
    """
    if not isinstance(document, dict) or document.get("apiVersion") != "v1":
        return
    items = document.get("items") if document.get("kind") in {"List", "NamespaceList"} else [document]
    for item in items if isinstance(items, list) else []:
        if isinstance(item, dict) and item.get("kind", "Namespace") == "Namespace":
            yield get_text(get_object(item, "metadata", ""), "name", "metadata"), get_annotations(item)


def inject_template(
    document: Json,
    template: Template,
    *,
    namespace: str,
    is_asked_for_all: bool,
    options: InjectionOptions,
    namespace_annotations: Mapping[str, Mapping[str, str]] | None = None,
) -> tuple[Json, Injection] | None:
    """Return the document with this template injected, and what was done; None when the template didn't ask.

    Arguments:
        namespace: where the template names none.
        is_asked_for_all: as if the namespace had the label ``touchmark.dev/inject: "true"``.
        namespace_annotations: by the namespace's name; the defaults for its pods.

    Raises:
        InjectionRefusedError: it asked, and can't or mustn't have it.
    """
    labels = {INJECT: "true"} if is_asked_for_all else None
    name = template.namespace or namespace
    injection = inject(
        template.pod,
        namespace=name,
        namespace_labels=labels,
        namespace_annotations=(namespace_annotations or {}).get(name),
        options=options,
    )
    if injection is None:
        return None
    if not injection.patch:
        return document, injection
    injected = copy.deepcopy(document)
    pod = apply_patch(template.pod, injection.patch)
    target: Any = injected
    for part in template.place:
        target = target[part]
    # Only these two change; a typed copy of a list's item mustn't bring its type along.
    target["metadata"], target["spec"] = pod["metadata"], pod["spec"]
    return injected, injection


def _lacks_type(item: Any) -> bool:
    return isinstance(item, dict) and "kind" not in item
