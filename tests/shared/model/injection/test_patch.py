"""Injection as a whole: golden files, and what holds for any pod."""

from __future__ import annotations

import copy
import secrets
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca.evidence.pod import Pod
from ca.evidence.pod import find_node_trait as find_pods_trait
from shared.model.injection.containers import OWN_CONTAINERS
from shared.model.injection.json_patch import apply_patch
from shared.model.injection.patch import Injection, inject, is_asked, restore
from shared.model.injection.refusals import InjectionRefusal, InjectionRefusedError
from tests.shared.model.injection.golden_injection import FILES, OPTIONS, compare, list_cases
from tests.shared.model.injection.pods import Json, annotate, containers, default, make_pod, make_pod_of, pods


def _inject(pod: Json, **changes: Any) -> Injection:
    injection = inject(pod, **{"namespace": "shop", "namespace_labels": None, "options": OPTIONS, **changes})
    assert injection is not None
    return injection


def _injected(pod: Json, **changes: Any) -> Json:
    injected: Json = apply_patch(pod, _inject(pod, **changes).patch)
    return injected


def test_golden_files_hold() -> None:
    """`python -m tests.shared.model.injection.golden_injection --write` writes them again."""
    differences = dict(compare())
    assert not differences, "\n".join(differences.values())
    assert {path.name.split(".")[0] for path in FILES.iterdir()} == set(list_cases())


@pytest.mark.parametrize("refusal", sorted(set(InjectionRefusal) - {"malformed_pod"}))
def test_each_refusal_has_an_example(refusal: InjectionRefusal) -> None:
    outside: dict[str, Json] = {
        InjectionRefusal.SYSTEM_NAMESPACE: {"namespace": "kube-system"},
        InjectionRefusal.POD_SECURITY: {"namespace_labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        InjectionRefusal.TOO_MANY_PROBES: {},
    }
    if refusal in outside:
        pod = make_pod()
        if refusal is InjectionRefusal.TOO_MANY_PROBES:
            pod = make_pod(
                containers=[{"name": f"c{n}", "livenessProbe": {"tcpSocket": {"port": 80}}} for n in range(257)]
            )
        with pytest.raises(InjectionRefusedError) as caught:
            _inject(pod, **outside[refusal])
        assert caught.value.refusal is refusal
        return
    texts = [path.read_text(encoding="utf-8") for path in FILES.glob("refused_*.out.yaml")]
    assert any(f"\ncode: {refusal}\n" in text for text in texts)


@pytest.mark.parametrize(
    ("annotation", "labels", "asked"),
    [
        ("true", None, True),
        ("true", {"touchmark.dev/inject": "false"}, True),
        ("false", {"touchmark.dev/inject": "true"}, False),
        (None, {"touchmark.dev/inject": "true"}, True),
        (None, {"touchmark.dev/inject": "yes"}, False),
        (None, None, False),
    ],
)
def test_the_pods_own_word_wins_over_its_namespaces(
    annotation: str | None, labels: dict[str, str] | None, asked: bool
) -> None:
    pod = make_pod()
    pod["metadata"] = {"annotations": {"touchmark.dev/inject": annotation}} if annotation else {}
    assert is_asked(pod, labels) is asked
    assert (inject(pod, namespace="shop", namespace_labels=labels, options=OPTIONS) is not None) is asked


def test_a_pod_that_a_kubelet_runs_from_a_file_is_left_alone() -> None:
    pod = make_pod()
    pod["metadata"]["annotations"]["kubernetes.io/config.mirror"] = "0"
    assert not is_asked(pod, {"touchmark.dev/inject": "true"})


def test_who_did_not_ask_is_left_alone_whatever_it_is() -> None:
    assert inject(make_pod(hostNetwork=True) | {"metadata": {}}, namespace="kube-system", namespace_labels={},
                  options=OPTIONS) is None  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "container", "refusal"),
    [
        ({"hostNetwork": True}, {}, "host_network"),
        ({"hostPID": True}, {}, "host_pid"),
        ({}, {"securityContext": {"privileged": True}}, "privileged"),
    ],
)
def test_a_namespace_passes_over_the_nodes_own_pods_and_says_so_but_refuses_those_that_ask(
    spec: Json, container: Json, refusal: str
) -> None:
    asking = make_pod_of(**container)
    asking["spec"] |= spec
    silent = {**asking, "metadata": {}}
    labels = {"touchmark.dev/inject": "true"}
    passed = inject(silent, namespace="shop", namespace_labels=labels, options=OPTIONS)
    assert passed is not None
    assert (passed.patch, passed.passed_over) == ((), refusal)
    assert refusal in passed.warnings[0] and len(passed.warnings[0]) <= 240
    assert find_pods_trait(msgspec.convert(silent, Pod)) == refusal, "the CA counts the same pods"
    with pytest.raises(InjectionRefusedError) as caught:
        inject(asking, namespace="shop", namespace_labels=labels, options=OPTIONS)
    assert caught.value.refusal == refusal


def test_a_pod_that_came_by_the_nodes_network_after_its_injection_is_not_passed_over() -> None:
    """Its capture would redirect the node's connections."""
    injected = _injected(make_pod())
    del injected["metadata"]["annotations"]["touchmark.dev/inject"]
    injected["spec"]["hostNetwork"] = True
    assert find_pods_trait(msgspec.convert(injected, Pod)) == ""
    with pytest.raises(InjectionRefusedError):
        inject(injected, namespace="shop", namespace_labels={"touchmark.dev/inject": "true"}, options=OPTIONS)


@given(pod=pods())
def test_twice_is_once(pod: Json) -> None:
    given_pod = copy.deepcopy(pod)
    once = _injected(pod)
    assert pod == given_pod, "the pod itself isn't changed"
    assert _inject(once).patch == ()
    assert _inject(default(once)).patch == (), "nor when the API server has filled in its defaults"


@given(pod=pods())
def test_capture_comes_first_then_the_sidecar_then_what_was_there_in_its_order(pod: Json) -> None:
    spec = _injected(pod)["spec"]
    names = [each["name"] for each in spec["initContainers"]]
    assert names == [*OWN_CONTAINERS, *(each["name"] for each in pod["spec"].get("initContainers", []))]
    assert [each["name"] for each in spec["containers"]] == [each["name"] for each in pod["spec"]["containers"]]
    assert spec["shareProcessNamespace"] is True


@given(pod=pods())
def test_nothing_of_a_foreign_container_changes_but_its_probes(pod: Json) -> None:
    injected = _injected(pod)

    def strip(container: Json) -> Json:
        kept = {key: value for key, value in container.items() if not key.endswith("Probe")}
        return {**kept, "lifecycle": sorted(container.get("lifecycle", {}))}

    for kind in ("initContainers", "containers"):
        foreign = [each for each in injected["spec"].get(kind, []) if each["name"] not in OWN_CONTAINERS]
        assert [strip(each) for each in foreign] == [strip(each) for each in pod["spec"].get(kind, [])]
    volumes = injected["spec"]["volumes"]
    assert volumes[: len(volumes) - 2] == pod["spec"].get("volumes", [])


@given(pod=pods(), data=st.data())
def test_a_container_that_another_webhook_adds_is_taken_in(pod: Json, data: st.DataObject) -> None:
    """Re-invocation gives what injecting the whole would have given, whichever came first."""
    late = data.draw(containers("late", has_probes=True))
    first = copy.deepcopy(pod)
    first["spec"]["containers"].append(late)
    later = _injected(pod)
    later["spec"]["containers"].append(late)
    assert _injected(later) == _injected(first)


def test_an_init_container_that_another_webhook_puts_first_comes_after_capture() -> None:
    injected = _injected(make_pod())
    injected["spec"]["initContainers"].insert(0, {"name": "eager", "image": "registry.example/eager:1"})
    assert [each["name"] for each in _injected(injected)["spec"]["initContainers"]] == [*OWN_CONTAINERS, "eager"]


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize(
    "change",
    [{"env": [{"name": "LD_PRELOAD", "value": "/x.so"}]}, {"image": "registry.example/evil:1"}, {"command": ["/x"]}],
    ids=lambda change: next(iter(change)),
)
def test_a_change_to_our_containers_is_undone(index: int, change: Json) -> None:
    once = _injected(make_pod())
    changed = copy.deepcopy(once)
    changed["spec"]["initContainers"][index] |= change
    assert _injected(changed) == once


def test_a_volume_of_ours_that_is_another_is_replaced() -> None:
    once = _injected(make_pod(volumes=[{"name": "data", "emptyDir": {}}]))
    changed = copy.deepcopy(once)
    changed["spec"]["volumes"][1] = {"name": "touchmark-token", "hostPath": {"path": "/"}}
    assert _injected(changed) == once


def test_the_annotation_alone_makes_nothing_injected() -> None:
    pod = annotate(make_pod(), injected="1.2.3")
    assert len(_injected(pod)["spec"]["initContainers"]) == 2


def test_a_foreign_container_that_mounts_the_token_afterwards_is_refused() -> None:
    injected = _injected(make_pod())
    injected["spec"]["containers"][0]["volumeMounts"] = [{"name": "touchmark-token", "mountPath": "/t"}]
    with pytest.raises(InjectionRefusedError) as caught:
        _inject(injected)
    assert caught.value.refusal is InjectionRefusal.TOKEN


def test_process_sharing_turned_off_afterwards_is_refused() -> None:
    injected = _injected(make_pod())
    injected["spec"]["shareProcessNamespace"] = False
    with pytest.raises(InjectionRefusedError) as caught:
        _inject(injected)
    assert caught.value.refusal is InjectionRefusal.PROCESS_SHARING_OFF


def test_a_probe_that_another_webhook_changes_afterwards_keeps_its_target() -> None:
    pod = make_pod_of(livenessProbe={"httpGet": {"path": "/live", "port": 80}})
    injected = _injected(pod)
    injected["spec"]["containers"][0]["livenessProbe"]["timeoutSeconds"] = 9
    pod["spec"]["containers"][0]["livenessProbe"]["timeoutSeconds"] = 9
    assert _injected(injected) == _injected(pod)


@given(pod=pods())
def test_restoring_takes_out_everything_of_ours(pod: Json) -> None:
    restored = restore(_injected(pod))
    assert "touchmark" not in str(restored["spec"])
    assert _injected(restored) == _injected(pod)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 70_000) | st.sampled_from(["", "touchmark-sidecar", "Always", "x"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["name", "port"]), inner, max_size=2),
    max_leaves=4,
)


def _list_places(value: Any, place: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(each for key, inner in items for each in _list_places(inner, (*place, key)))]


@given(pod=pods(), injected_first=st.booleans(), data=st.data())
def test_whatever_stands_in_a_file_is_injected_or_refused_with_a_code(
    pod: Json, injected_first: bool, data: st.DataObject
) -> None:
    """What a person writes may have any shape anywhere; an injected pod, too."""
    if injected_first:
        pod = _injected(pod)
    *parents, last = data.draw(st.sampled_from(_list_places(pod)[1:]))
    place: Any = pod
    for part in parents:
        place = place[part]
    place[last] = data.draw(_JSON)
    try:
        inject(pod, namespace="shop", namespace_labels={"touchmark.dev/inject": "true"}, options=OPTIONS)
    except InjectionRefusedError as error:
        assert error.describe()


@pytest.mark.parametrize("pod", [{}, {"spec": None}, {"spec": []}, {"metadata": []}, {"spec": {"containers": [1]}}])
def test_what_is_no_pod_is_refused(pod: Json) -> None:
    with pytest.raises(InjectionRefusedError) as caught:
        inject(pod, namespace="shop", namespace_labels={"touchmark.dev/inject": "true"}, options=OPTIONS)
    assert caught.value.refusal is InjectionRefusal.MALFORMED_POD


@pytest.mark.parametrize(("policy", "warned"), [("Default", True), ("None", True), ("ClusterFirst", False)])
def test_a_pod_that_may_not_find_its_ca_is_warned(policy: str, warned: bool) -> None:
    assert bool(_inject(make_pod(dnsPolicy=policy)).warnings) is warned


def test_each_pod_draws_its_own_secret_and_keeps_it() -> None:
    options = replace(OPTIONS, draw_path_secret=lambda: secrets.token_hex(16))
    pod = annotate(make_pod_of(livenessProbe={"tcpSocket": {"port": 80}}), inject="true")

    def read_path(injected: Json) -> str:
        path: str = injected["spec"]["containers"][0]["livenessProbe"]["httpGet"]["path"]
        return path

    first, second = (_injected(pod, options=options) for _ in range(2))
    assert read_path(first) != read_path(second)
    assert _inject(first, options=options).patch == ()
    first["metadata"]["annotations"]["example.org/changed"] = "since"
    first["spec"]["initContainers"][1]["args"] = ["--changed"]
    assert read_path(_injected(first, options=options)) == read_path(first)
