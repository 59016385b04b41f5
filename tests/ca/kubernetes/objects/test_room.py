"""What one namespace's Programs may take of the CA's memory: not counted too low, and others have their own room."""

from __future__ import annotations

import sys

import pytest

from ca.kubernetes.objects import room as room_module
from ca.kubernetes.objects.room import OBJECT_BYTES, Room, measure
from shared.model.identity.loaded_code import ApprovedCode, LoadedObject
from shared.model.identity.program import Program
from shared.model.policy.documents import ProgramDocument


@pytest.mark.parametrize("main", ["", "none", "m"])
@pytest.mark.parametrize("length", [0, 1, 255])
def test_what_is_counted_is_not_less_than_what_lies_in_memory_nor_twice_as_much(main: str, length: int) -> None:
    digests = [f"{number:064x}" for number in range(200)]
    mains = [f"{number:064x}" if main == "m" else main for number in range(200)]
    programs = tuple(Program(digest=each, main=its) for each, its in zip(digests, mains, strict=True))
    objects = tuple(LoadedObject(path="/" + "p" * length, digest=each) for each in digests) if length else ()
    document = ProgramDocument(
        namespace="shop", name="p", service_account="db", programs=programs, code=ApprovedCode(objects=objects)
    )
    taken = sys.getsizeof(programs) + sum(map(sys.getsizeof, programs)) + sum(map(sys.getsizeof, digests))
    if main == "m":
        taken += sum(map(sys.getsizeof, mains))
    if objects:
        taken += sys.getsizeof(objects) + sum(map(sys.getsizeof, objects)) + sum(map(sys.getsizeof, digests))
        taken += sum(sys.getsizeof(each.path) for each in objects)
    assert taken <= measure(document) - OBJECT_BYTES <= 2 * taken


def test_beyond_a_namespaces_room_only_the_name_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room_module, "MAX_NAMESPACE_BYTES", 10 * OBJECT_BYTES)
    room = Room()
    assert room.put("busy", "a", 8 * OBJECT_BYTES)
    assert not room.put("busy", "b", 3 * OBJECT_BYTES)
    assert room.put("quiet", "b", 3 * OBJECT_BYTES)
    assert (room.total("busy"), room.has_left_out("busy"), room.has_left_out("quiet")) == (
        9 * OBJECT_BYTES,
        True,
        False,
    )
    assert room.put("busy", "a", 7 * OBJECT_BYTES), "its own former size doesn't count"
    assert room.put("busy", "b", 3 * OBJECT_BYTES)
    assert not room.has_left_out("busy")
    for name in ("a", "b", "b"):
        room.drop("busy", name)
    assert (room.total("busy"), room.total("nobody")) == (0, 0)
