from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from shared.model.injection.pod_json import (
    get_annotations,
    get_flag,
    get_number,
    get_object,
    get_objects,
    get_text,
    get_texts,
    list_containers,
)
from shared.model.injection.refusals import InjectionRefusal, InjectionRefusedError

ACCESSORS: list[tuple[Callable[..., Any], Any, list[Any]]] = [
    (get_object, {}, [[], "x", 1, {1: 2}]),
    (get_objects, [], [{}, "x", ["x"], [{}] * 2000]),
    (get_texts, [], [{}, "x", [1], ["x"] * 2000]),
    (get_text, "", [1, {}, True]),
    (get_number, None, ["1", True, 1.5]),
    (get_flag, None, ["true", 1]),
]


@pytest.mark.parametrize(("accessor", "absent", "wrong"), ACCESSORS, ids=lambda each: getattr(each, "__name__", ""))
def test_a_wrong_shape_is_refused_with_its_place(accessor: Callable[..., Any], absent: Any, wrong: list[Any]) -> None:
    assert accessor({}, "f", "spec") == absent
    assert accessor({"f": None}, "f", "spec") == absent
    for value in wrong:
        with pytest.raises(InjectionRefusedError, match=r"^spec\.f") as caught:
            accessor({"f": value}, "f", "spec")
        assert caught.value.refusal is InjectionRefusal.MALFORMED_POD


def test_right_shapes_come_as_they_are() -> None:
    parent = {"o": {"a": 1}, "l": [{"a": 1}], "t": ["x"], "s": "x", "n": 3, "b": False}
    assert get_object(parent, "o", "") == {"a": 1}
    assert get_objects(parent, "l", "") == [{"a": 1}]
    assert get_texts(parent, "t", "") == ["x"]
    assert get_text(parent, "s", "") == "x"
    assert get_number(parent, "n", "") == 3
    assert get_flag(parent, "b", "") is False


def test_annotations_are_strings() -> None:
    assert get_annotations({"metadata": {"annotations": {"a": "b"}}}) == {"a": "b"}
    with pytest.raises(InjectionRefusedError, match=r"metadata\.annotations"):
        get_annotations({"metadata": {"annotations": {"a": True}}})


def test_long_lived_are_the_applications_containers_and_native_sidecars() -> None:
    spec = {"initContainers": [{"name": "a"}, {"name": "b", "restartPolicy": "Always"}], "containers": [{"name": "c"}]}
    walked = [*list_containers({"spec": spec}, "initContainers"), *list_containers({"spec": spec}, "containers")]
    assert [(each.path, each.is_long_lived) for each in walked] == [
        ("spec.initContainers[0]", False),
        ("spec.initContainers[1]", True),
        ("spec.containers[0]", True),
    ]
