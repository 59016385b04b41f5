"""Reading a pod as JSON: each accessor says where a shape is wrong. Pure.

Belongs here: shapes, and the walk over a pod's containers. Doesn't: what is allowed (``checks.py``). The API
server gives well-formed pods; a hand-written file may hold anything. Pods stay JSON, and aren't parsed
into values of our own, because a patch has to leave alone what it doesn't know.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from shared.model.injection.refusals import InjectionRefusal, InjectionRefusedError

Json: TypeAlias = dict[str, Any]
MAX_ENTRIES = 1024  # Of any list in a pod.


def get_object(parent: Json, key: str, path: str) -> Json:
    """Return a field that is an object, empty when it is absent.

    Raises:
        InjectionRefusedError: it is something else.
    """
    value = parent.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value):
        raise _malformed(f"{path}.{key}", "fields")
    return value


def get_objects(parent: Json, key: str, path: str) -> list[Json]:
    """Return a field that is a list of objects, empty when it is absent.

    Raises:
        InjectionRefusedError: it is something else, or too long.
    """
    value = parent.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > MAX_ENTRIES:
        raise _malformed(f"{path}.{key}", f"a list of at most {MAX_ENTRIES} entries")
    for index, entry in enumerate(value):
        if not isinstance(entry, dict):
            raise _malformed(f"{path}.{key}[{index}]", "fields")
    return value


def get_texts(parent: Json, key: str, path: str) -> list[str]:
    """Return a field that is a list of strings, empty when it is absent.

    Raises:
        InjectionRefusedError: it is something else, or too long.
    """
    value = parent.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > MAX_ENTRIES or not all(isinstance(each, str) for each in value):
        raise _malformed(f"{path}.{key}", "a list of strings")
    return value


def get_text(parent: Json, key: str, path: str) -> str:
    """Return a field that is a string, empty when it is absent.

    Raises:
        InjectionRefusedError: it is something else.
    """
    value = parent.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _malformed(f"{path}.{key}", "a string")
    return value


def get_number(parent: Json, key: str, path: str) -> int | None:
    """Return a field that is a whole number, None when it is absent.

    Raises:
        InjectionRefusedError: it is something else.
    """
    value = parent.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise _malformed(f"{path}.{key}", "a whole number")
    return value


def get_flag(parent: Json, key: str, path: str) -> bool | None:
    """Return a field that is true or false, None when it is absent.

    Raises:
        InjectionRefusedError: it is something else.
    """
    value = parent.get(key)
    if value is not None and not isinstance(value, bool):
        raise _malformed(f"{path}.{key}", "true or false")
    return value


def get_annotations(pod: Json) -> dict[str, str]:
    """Return a pod's annotations.

    Raises:
        InjectionRefusedError: they aren't strings by name.
    """
    annotations = get_object(get_object(pod, "metadata", "pod"), "annotations", "metadata")
    return {name: get_text(annotations, name, "metadata.annotations") for name in annotations}


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """One container of a pod and its place.

    Attributes:
        path: such as ``spec.containers[0]``.
        body: its JSON, the pod's own object.
        name: as it is written; empty when there is none.
        is_long_lived: it may have probes: a container of the application, or a native sidecar.
    """

    path: str
    body: Json
    name: str
    is_long_lived: bool


def list_containers(pod: Json, kind: str) -> Iterator[Container]:
    """Walk over a pod's ``initContainers``, ``containers`` or ``ephemeralContainers``.

    Raises:
        InjectionRefusedError: they aren't a list of objects with names.
    """
    for index, body in enumerate(get_objects(get_object(pod, "spec", "pod"), kind, "spec")):
        path = f"spec.{kind}[{index}]"
        is_long_lived = kind == "containers" or get_text(body, "restartPolicy", path) == "Always"
        yield Container(path=path, body=body, name=get_text(body, "name", path), is_long_lived=is_long_lived)


def _malformed(path: str, expected: str) -> InjectionRefusedError:
    return InjectionRefusedError(InjectionRefusal.MALFORMED_POD, f"expected {expected}", path=path)
