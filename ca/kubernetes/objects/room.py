"""How much of one namespace's ``Program`` objects is remembered. Pure.

Whoever may edit a namespace can make thousands of Programs with ten thousand digests each, as much as etcd takes; the
CA remembers what the API server sends, and must not end by it. What is beyond the namespace's room is remembered
without what it says; the object's status tells it, and what was in force under its name stays.

Belongs here: the bound, and what counts. Doesn't: which objects there are (``objects.py``), or how large a namespace's
state may be for its sidecars (``ca/store/namespaces.py``), which is reached first unless Programs repeat each other. A
namespace's MeshPolicies aren't counted: the API server lets it have two.
"""

from __future__ import annotations

from typing import Final

from shared.model.policy.documents import ProgramDocument

MAX_NAMESPACE_BYTES: Final = 32 * 1024 * 1024
# Of memory, rounded up: `tests/ca/kubernetes/objects/test_room.py` measures each.
OBJECT_BYTES: Final = 2_000
_DIGEST_BYTES: Final = 180
_MAIN_BYTES: Final = 120
_LOADED_BYTES: Final = 250


def measure(document: ProgramDocument) -> int:
    """Return about how many bytes of memory a Program takes."""
    size = OBJECT_BYTES + _DIGEST_BYTES * len(document.programs)
    size += _MAIN_BYTES * sum(bool(each.main) for each in document.programs)
    if document.code is not None:
        size += sum(_LOADED_BYTES + len(each.path) for each in document.code.objects)
    return size


class Room:
    """What each namespace's Programs take."""

    def __init__(self) -> None:
        self._namespaces: dict[str, _OfNamespace] = {}

    def put(self, namespace: str, name: str, size: int) -> bool:
        """Count a Program in the place of the one of its name; return whether there is room for what it says.

        Arguments:
            size: in bytes of memory; one for which there is no room counts as ``OBJECT_BYTES``.
        """
        known = self._namespaces.setdefault(namespace, _OfNamespace())
        known.remove(name)
        has_room = known.total + size <= MAX_NAMESPACE_BYTES
        if not has_room:
            known.left_out.add(name)
            size = OBJECT_BYTES
        known.sizes[name] = size
        known.total += size
        return has_room

    def drop(self, namespace: str, name: str) -> None:
        """Count a Program no more."""
        if (known := self._namespaces.get(namespace)) is not None:
            known.remove(name)
            if not known.sizes:
                del self._namespaces[namespace]

    def has_left_out(self, namespace: str) -> bool:
        """Tell whether there was no room for what some Program of the namespace says."""
        known = self._namespaces.get(namespace)
        return known is not None and bool(known.left_out)

    def total(self, namespace: str) -> int:
        """Return what a namespace's Programs take, in bytes."""
        known = self._namespaces.get(namespace)
        return 0 if known is None else known.total


class _OfNamespace:
    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self.left_out: set[str] = set()
        self.total = 0

    def remove(self, name: str) -> None:
        self.total -= self.sizes.pop(name, 0)
        self.left_out.discard(name)
