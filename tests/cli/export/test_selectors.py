"""Labels that find a workload's pods, and no others of its namespace."""

from __future__ import annotations

import pytest

from cli.export.selectors import WorkloadPods, choose_selectors
from shared.model.errors import InputError
from tests.cli.export.world import PODS, make_pod


def test_one_label_does_where_no_other_workload_has_it() -> None:
    found = choose_selectors(PODS)
    assert found.find("shop/web") == WorkloadPods(selectors=({"app": "web"},), ports=(8080,))
    assert found.list_accounts("shop") == ["db", "web"]
    assert found.find("shop/none") is None


def test_what_two_workloads_share_is_no_selector_of_one() -> None:
    pods = [
        make_pod("shop", "a", {"app": "x", "role": "a"}),
        make_pod("shop", "b", {"app": "x", "role": "b"}),
        make_pod("other", "c", {"role": "a"}),
    ]
    assert choose_selectors(pods).find("shop/a") == WorkloadPods(selectors=({"role": "a"},))


def test_two_templates_of_one_workload_are_two_selectors() -> None:
    pods = [
        make_pod("shop", "a", {"app": "x"}),
        make_pod("shop", "a", {"app": "y"}),
        make_pod("shop", "b", {"app": "z"}),
    ]
    assert choose_selectors(pods).find("shop/a") == WorkloadPods(selectors=({"app": "x"}, {"app": "y"}))


def test_labels_that_select_others_too_name_one_of_them() -> None:
    pods = [make_pod("shop", "a", {"app": "x"}), make_pod("shop", "b", {"app": "x"})]
    assert choose_selectors(pods).find("shop/a") == WorkloadPods(selectors=({"app": "x"},), others="shop/b")


def test_pods_without_labels_are_selected_by_none_where_they_are_alone() -> None:
    assert choose_selectors([make_pod("shop", "a", {})]).find("shop/a") == WorkloadPods(selectors=({},))


def test_ended_and_host_network_pods_dont_count_and_those_without_a_sidecar_are_counted() -> None:
    pods = [
        {**make_pod("shop", "a", {"app": "a"}), "status": {"phase": "Succeeded"}},
        make_pod("shop", "b", {"app": "b"}, hostNetwork=True),
        make_pod("shop", "c", {"app": "c"}, annotations={}),
    ]
    found = choose_selectors(pods)
    assert list(found.workloads) == ["shop/c"]
    assert found.outside == {"shop": 1}


def test_given_labels_replace_what_pods_say() -> None:
    found = choose_selectors(PODS, ["shop/web:x=1,y=2", "shop/new:app=new"])
    assert found.find("shop/web") == WorkloadPods(selectors=({"x": "1", "y": "2"},), ports=(8080,))
    assert found.find("shop/new") == WorkloadPods(selectors=({"app": "new"},))


@pytest.mark.parametrize("text", ["", "shop", "web:app=web", "shop/web:", "shop/web:app", "shop/web:=x"])
def test_anything_else_isnt_labels(text: str) -> None:
    with pytest.raises(InputError):
        choose_selectors([], [text])
