"""What applying an installation's objects would change, asked by a trial of each, and applying them. Does I/O.

Belongs here: server-side apply of many objects, and how a change is told. Doesn't: which objects (``rendering.py``).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from cli.cluster.connection import Cluster, Object
from cli.cluster.faults import ForeignObjectError, OwnedElsewhereError
from cli.cluster.installation.bundle import CLUSTER_SCOPED, KINDS, PART_OF
from shared.model.errors import NotFoundError

# The CA itself writes the webhook's caBundle as "touchmark": one manager's apply takes away what it no longer names.
MANAGER: Final = "touchmark-install"
MAX_AT_ONCE: Final = 8
MAX_FIELDS: Final = 20
_MAX_VALUE: Final = 120
_KEPT_BY_THE_SERVER: Final = frozenset({"managedFields", "resourceVersion", "generation", "uid", "creationTimestamp"})


class Effect(StrEnum):
    """What applying does to an object."""

    CREATED = "created"
    CHANGED = "changed"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldChange:
    """A field that changes. ``before`` and ``after``: as JSON, shortened; empty: it isn't there."""

    path: str
    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What applying does to one object.

    Attributes:
        is_tried: the API server has tried it. Without its namespace an object can't be.
        fields: of an object that is changed, at most ``MAX_FIELDS``.
    """

    kind: str
    namespace: str
    name: str
    effect: Effect
    is_tried: bool = True
    fields: tuple[FieldChange, ...] = ()


async def plan(cluster: Cluster, objects: Sequence[Object], *, is_forced: bool = False) -> list[Change]:
    """Try each object on the API server and return what would change, in the same order.

    Raises:
        ForeignObjectError: an object that isn't ours has the name of one, and ``is_forced`` is false.
        OwnedElsewhereError: another tool owns a field that would change, and ``is_forced`` is false.
        TouchmarkError: the API server refuses one, or can't be asked.
    """
    slots = asyncio.Semaphore(MAX_AT_ONCE)

    async def try_one(value: Object) -> Change:
        async with slots:
            return await _plan_one(cluster, value, is_forced=is_forced)

    return list(await asyncio.gather(*(try_one(each) for each in objects)))


async def apply(cluster: Cluster, objects: Sequence[Object], *, is_forced: bool = False) -> None:
    """Apply the objects one after the other. Raises as ``plan``; what was applied before stays."""
    for each in objects:
        try:
            await cluster.apply(KINDS[each["kind"]], each, manager=MANAGER, force=is_forced)
        except OwnedElsewhereError:
            if not await _is_in_force(cluster, each):
                raise


async def _is_in_force(cluster: Cluster, value: Object) -> bool:
    """Return whether another tool's object is as this one would be.

    Where the API server fills in what an indivisible field leaves out, such as an admission policy's
    ``matchConstraints``, it takes the very same object of two tools for a conflict.
    """
    kind = KINDS[value["kind"]]
    there = await cluster.find(kind, value["metadata"].get("namespace", ""), value["metadata"]["name"])
    if there is None:
        return False
    tried = await cluster.apply(kind, value, manager=MANAGER, force=True, dry_run=True)
    return next(compare(there, tried), None) is None


async def _plan_one(cluster: Cluster, value: Object, *, is_forced: bool) -> Change:
    kind, name = value["kind"], value["metadata"]["name"]
    namespace = "" if kind in CLUSTER_SCOPED else value["metadata"]["namespace"]
    there = await cluster.find(KINDS[kind], namespace, name)
    if there is not None and (there["metadata"].get("labels") or {}).get(PART_OF) != "touchmark" and not is_forced:
        place = f" in namespace {namespace}" if namespace else ""
        raise ForeignObjectError(
            f"nothing is changed: {kind} {name}{place} is there, without the label {PART_OF}=touchmark",
            hint="rename it, or --force-conflicts makes it Touchmark's: then an uninstallation deletes it",
        )
    try:
        tried = await cluster.apply(KINDS[kind], value, manager=MANAGER, force=is_forced, dry_run=True)
    except NotFoundError:  # Its namespace: a trial makes none.
        if not namespace or there is not None:
            raise
        return Change(kind=kind, namespace=namespace, name=name, effect=Effect.CREATED, is_tried=False)
    except OwnedElsewhereError:
        if not await _is_in_force(cluster, value):
            raise
        return Change(kind=kind, namespace=namespace, name=name, effect=Effect.UNCHANGED)
    if there is None:
        return Change(kind=kind, namespace=namespace, name=name, effect=Effect.CREATED)
    fields = tuple(compare(there, tried))
    effect = Effect.CHANGED if fields else Effect.UNCHANGED
    return Change(kind=kind, namespace=namespace, name=name, effect=effect, fields=fields[:MAX_FIELDS])


def compare(before: Object, after: Object) -> Iterator[FieldChange]:
    """Yield the fields in which two states of an object differ, but for what the API server itself keeps."""
    yield from _compare("", _strip(before), _strip(after))


def _strip(value: Object) -> Object:
    metadata = {key: each for key, each in value.get("metadata", {}).items() if key not in _KEPT_BY_THE_SERVER}
    return {**{key: each for key, each in value.items() if key != "status"}, "metadata": metadata}


def _compare(path: str, before: Any, after: Any) -> Iterator[FieldChange]:
    if before == after:
        return
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys()):
            yield from _compare(f"{path}.{key}" if path else key, before.get(key), after.get(key))
    elif _is_named(before) and _is_named(after):
        ours, theirs = ({each["name"]: each for each in values} for values in (before, after))
        for name in dict.fromkeys([*ours, *theirs]):
            yield from _compare(f"{path}[{name}]", ours.get(name), theirs.get(name))
    else:
        yield FieldChange(path=path, before=_write(before), after=_write(after))


def _is_named(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, dict) and "name" in each for each in value)


def _write(value: Any) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= _MAX_VALUE else text[: _MAX_VALUE - 1] + "…"
