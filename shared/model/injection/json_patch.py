"""JSON patches (RFC 6902): computed from two documents, and applied. Pure.

Belongs here: the three operations that injection needs (``add``, ``remove``, ``replace``). Doesn't: what is changed and
why (``patch.py``). Lists of named objects (containers, volumes) are aligned by ``name``, so that an entry put in
front leaves its neighbours alone.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from shared.model.errors import InputError


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a patch.

    Attributes:
        op: ``add``, ``remove`` or ``replace``.
        path: a JSON pointer (RFC 6901).
        value: what is put there; absent for ``remove``.
    """

    op: str
    path: str
    value: Any = msgspec.UNSET


def make_patch(before: Any, after: Any, path: str = "") -> tuple[Operation, ...]:
    """Return the operations that make ``after`` out of ``before``; none when they are equal.

    Arguments:
        before, after: JSON values.
        path: the pointer at which both stand.
    """
    return tuple(_compare(before, after, path))


def apply_patch(document: Any, operations: Sequence[Operation]) -> Any:
    """Return a copy of the document with the operations done.

    Raises:
        InputError: an operation is unknown or its place doesn't exist.
    """
    document = copy.deepcopy(document)
    for operation in operations:
        if not operation.path:
            document = copy.deepcopy(operation.value)
            continue
        *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in operation.path.split("/")[1:]]
        try:
            place = document
            for part in parents:
                place = place[int(part)] if isinstance(place, list) else place[part]
            _apply_at(place, last, operation)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise InputError(f"a patch can't be applied at {operation.path[:200]!r}") from error
    return document


def _apply_at(place: Any, last: str, operation: Operation) -> None:
    key: Any = last
    if isinstance(place, list):
        key = len(place) if last == "-" else int(last)
        if not 0 <= key <= len(place):
            raise IndexError(key)
    if operation.op == "remove":
        del place[key]
    elif operation.op == "add" and isinstance(place, list):
        place.insert(key, copy.deepcopy(operation.value))
    elif operation.op == "add":
        place[key] = copy.deepcopy(operation.value)
    elif operation.op == "replace":
        place[key]  # Raises where there is nothing to replace.
        place[key] = copy.deepcopy(operation.value)
    else:
        raise InputError(f"not an operation of a patch: {operation.op[:40]!r}")


def _compare(before: Any, after: Any, path: str) -> Iterator[Operation]:
    if _is_same(before, after):
        return
    if isinstance(before, dict) and isinstance(after, dict):
        yield from _compare_objects(before, after, path)
    elif isinstance(before, list) and isinstance(after, list):
        yield from _compare_lists(before, after, path)
    else:
        yield Operation(op="replace", path=path, value=after)


def _compare_objects(before: dict[str, Any], after: dict[str, Any], path: str) -> Iterator[Operation]:
    for key in before:
        if key not in after:
            yield Operation(op="remove", path=_join(path, key))
    for key, value in after.items():
        if key in before:
            yield from _compare(before[key], value, _join(path, key))
        else:
            yield Operation(op="add", path=_join(path, key), value=value)


def _compare_lists(before: list[Any], after: list[Any], path: str) -> Iterator[Operation]:
    shorter = min(len(before), len(after))
    start = 0
    while start < shorter and _is_aligned(before[start], after[start]):
        start += 1
    end = 0
    while end < shorter - start and _is_aligned(before[-1 - end], after[-1 - end]):
        end += 1
    for index in range(start):
        yield from _compare(before[index], after[index], f"{path}/{index}")
    for index in reversed(range(start, len(before) - end)):
        yield Operation(op="remove", path=f"{path}/{index}")
    for index in range(start, len(after) - end):
        yield Operation(op="add", path=f"{path}/{index}", value=after[index])
    for offset in range(end, 0, -1):
        yield from _compare(before[-offset], after[-offset], f"{path}/{len(after) - offset}")


def _is_aligned(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict) and "name" in one and "name" in other:
        return bool(one["name"] == other["name"])
    return _is_same(one, other)


def _is_same(one: Any, other: Any) -> bool:
    """Compare as JSON does: Python takes ``True`` for 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    return bool(one == other)


def _join(path: str, key: str) -> str:
    return f"{path}/{key.replace('~', '~0').replace('/', '~1')}"
