from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.model.errors import InputError
from shared.model.injection.json_patch import Operation, apply_patch, make_patch

_KEYS = st.sampled_from(["name", "a", "b/c", "d~e", ""])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["", "x", "web"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=12,
)


def _encode(value: Any) -> bytes:
    return msgspec.json.encode(value, order="sorted")


@given(before=VALUES, after=VALUES)
def test_a_patch_makes_the_one_out_of_the_other(before: Any, after: Any) -> None:
    kept = _encode(before)
    operations = make_patch(before, after)
    assert _encode(apply_patch(before, operations)) == _encode(after)
    assert _encode(before) == kept, "what is patched is a copy"
    assert (operations == ()) == (kept == _encode(after))


def test_an_entry_in_front_leaves_its_neighbours_alone() -> None:
    before = [{"name": "a", "x": 1}, {"name": "b"}]
    after = [{"name": "new"}, {"name": "a", "x": 2}, {"name": "b"}]
    assert make_patch(before, after, "/l") == (
        Operation(op="add", path="/l/0", value={"name": "new"}),
        Operation(op="replace", path="/l/1/x", value=2),
    )


def test_operations_are_written_as_rfc_6902_wants_them() -> None:
    operations = make_patch({"gone": 1, "a/b": 1}, {"a/b": None})
    assert msgspec.json.decode(msgspec.json.encode(operations)) == [
        {"op": "remove", "path": "/gone"},
        {"op": "replace", "path": "/a~1b", "value": None},
    ]


@pytest.mark.parametrize(
    "operation",
    [
        Operation(op="move", path="/a", value=1),
        Operation(op="replace", path="/b", value=1),
        Operation(op="remove", path="/b"),
        Operation(op="add", path="/l/5", value=1),
        Operation(op="add", path="/l/x", value=1),
        Operation(op="add", path="/a/b/c", value=1),
    ],
    ids=str,
)
def test_what_is_not_there_is_not_patched(operation: Operation) -> None:
    with pytest.raises(InputError):
        apply_patch({"a": 1, "l": []}, [operation])


def test_a_dash_appends() -> None:
    assert apply_patch({"l": [1]}, [Operation(op="add", path="/l/-", value=2)]) == {"l": [1, 2]}
