from __future__ import annotations

import copy
from typing import Any

import msgspec
import pytest
from hypothesis import given

from shared.model.injection.containers import OWN_CONTAINERS
from shared.model.injection.probes import decode_targets, encode_targets, find_secret, restore_probes, rewrite_probes
from shared.model.injection.refusals import InjectionRefusal, InjectionRefusedError
from shared.model.kubernetes.contract import HEALTH_PORT, ProbeTarget
from tests.shared.model.injection.pods import Json, make_pod, make_pod_of, pods

SECRET = "ab" * 16


def _rewrite(pod: Json) -> tuple[Json, tuple[ProbeTarget, ...]]:
    pod = copy.deepcopy(pod)
    return pod, rewrite_probes(pod, OWN_CONTAINERS, secret=SECRET)


def _only(pod: Json) -> ProbeTarget:
    (target,) = _rewrite(pod)[1]
    return target


def test_an_http_probe_becomes_one_at_the_sidecar_with_its_timings() -> None:
    probe = {
        "httpGet": {"path": "/live?x=1", "port": "http", "scheme": "HTTPS"},
        "timeoutSeconds": 4,
        "periodSeconds": 9,
    }
    pod = make_pod_of(ports=[{"name": "http", "containerPort": 8080}], livenessProbe=probe)
    rewritten, targets = _rewrite(pod)
    assert rewritten["spec"]["containers"][0]["livenessProbe"] == {
        "httpGet": {"path": f"/probe/{SECRET}/web/liveness", "port": HEALTH_PORT, "scheme": "HTTP"},
        "timeoutSeconds": 4,
        "periodSeconds": 9,
    }
    assert targets == (
        ProbeTarget(
            container=f"{SECRET}/web",
            kind="liveness",
            handler="http",
            port=8080,
            scheme="HTTPS",
            path="/live?x=1",
            timeout_s=4,
        ),
    )


@pytest.mark.parametrize(
    ("path", "sent"),
    [("", "/"), ("x", "/x"), ("?q", "/?q"), ("/a#b", "/a"), ("/a b\r\nc", "/a%20b%0D%0Ac"), ("/ü", "/%C3%BC")],
)
def test_a_path_is_what_the_kubelets_client_would_send(path: str, sent: str) -> None:
    assert _only(make_pod_of(livenessProbe={"httpGet": {"path": path, "port": 80}})).path == sent


def test_tcp_and_grpc_probes_become_http_ones() -> None:
    pod = make_pod_of(
        readinessProbe={"tcpSocket": {"port": 5432}},
        startupProbe={"grpc": {"port": 9000, "service": "shop.Api"}},
    )
    rewritten, (readiness, startup) = _rewrite(pod)
    assert (readiness.handler, readiness.port) == ("tcp", 5432)
    assert (startup.handler, startup.port, startup.service) == ("grpc", 9000, "shop.Api")
    container = rewritten["spec"]["containers"][0]
    assert set(container["readinessProbe"]) == set(container["startupProbe"]) == {"httpGet"}


def test_exec_sleep_and_tcp_hooks_are_left_alone() -> None:
    pod = make_pod_of(
        livenessProbe={"exec": {"command": ["x"]}},
        lifecycle={"postStart": {"tcpSocket": {"port": 80}}, "preStop": {"sleep": {"seconds": 1}}},
    )
    assert _rewrite(pod) == (pod, ())


@pytest.mark.parametrize("host", ["198.18.0.9", "health.example", "127.0.0.1", "localhost"])
def test_what_asks_another_host_stays_as_it_is(host: str) -> None:
    """Loopback is the node's, from where the kubelet asks. The sidecar's port and path elsewhere aren't ours."""
    pod = make_pod_of(
        livenessProbe={"httpGet": {"host": host, "path": "/", "port": 80}},
        readinessProbe={"tcpSocket": {"host": host, "port": "named-nowhere"}},
        startupProbe={"httpGet": {"host": host, "path": "/probe/web/startup", "port": HEALTH_PORT}},
        lifecycle={"preStop": {"httpGet": {"host": host, "port": 80}}},
    )
    assert _rewrite(pod) == (pod, ())
    restored = copy.deepcopy(pod)
    restore_probes(restored, {}, OWN_CONTAINERS)
    assert restored == pod


def test_what_asks_an_excluded_port_stays_as_it_is() -> None:
    pod = make_pod_of(
        ports=[{"name": "metrics", "containerPort": 9090}],
        livenessProbe={"httpGet": {"port": "metrics"}},
        readinessProbe={"tcpSocket": {"port": 9090}},
    )
    assert rewrite_probes(copy.deepcopy(pod), OWN_CONTAINERS, secret=SECRET, excluded_ports=(9090,)) == ()
    assert len(_rewrite(pod)[1]) == 2


def test_hooks_wait_as_long_as_the_kubelet_would() -> None:
    hook = {"httpGet": {"path": "/", "port": 80}}
    pod = make_pod_of(lifecycle={"postStart": hook, "preStop": hook})
    assert [(each.kind, each.timeout_s) for each in _rewrite(pod)[1]] == [("post-start", 3600), ("pre-stop", 30)]
    pod["spec"]["terminationGracePeriodSeconds"] = 7200
    assert _rewrite(pod)[1][1].timeout_s == 3600


def test_native_sidecars_have_probes_and_plain_init_containers_none() -> None:
    probe = {"tcpSocket": {"port": 80}}
    init = [
        {"name": "plain", "livenessProbe": probe},
        {"name": "native", "restartPolicy": "Always", "livenessProbe": probe},
        {"name": "touchmark-sidecar", "restartPolicy": "Always", "livenessProbe": probe},
    ]
    assert [each.container_name for each in _rewrite(make_pod(initContainers=init))[1]] == ["native"]


@pytest.mark.parametrize("port", ["nowhere", "", None, True, 1.5, "99999999"])
def test_a_port_that_cannot_be_resolved_is_refused(port: Any) -> None:
    with pytest.raises(InjectionRefusedError):
        _rewrite(make_pod_of(livenessProbe={"httpGet": {"port": port}}))


def test_a_port_written_as_digits_in_a_string_counts() -> None:
    assert _only(make_pod_of(livenessProbe={"httpGet": {"port": "8080"}})).port == 8080


@pytest.mark.parametrize("header", [{"name": "", "value": "x"}, {"name": "X", "value": "a\r\nEvil: b"}])
def test_a_header_that_would_break_the_request_is_refused(header: Json) -> None:
    with pytest.raises(InjectionRefusedError, match="header"):
        _rewrite(make_pod_of(livenessProbe={"httpGet": {"port": 80, "httpHeaders": [header]}}))


@pytest.mark.parametrize("action", [{"port": 0}, {"port": 70000}, {"port": 80, "scheme": "FTP"}])
def test_a_target_that_cannot_be_is_refused_with_its_place(action: Json) -> None:
    with pytest.raises(InjectionRefusedError, match=r"spec\.containers\[0\]\.livenessProbe\.httpGet"):
        _rewrite(make_pod_of(livenessProbe={"httpGet": action}))


def test_more_than_the_sidecar_takes_are_refused() -> None:
    pod = make_pod(containers=[{"name": f"c{n}", "livenessProbe": {"tcpSocket": {"port": 80}}} for n in range(257)])
    with pytest.raises(InjectionRefusedError) as caught:
        _rewrite(pod)
    assert caught.value.refusal is InjectionRefusal.TOO_MANY_PROBES
    with pytest.raises(InjectionRefusedError):
        _rewrite(make_pod_of(livenessProbe={"httpGet": {"port": 80, "path": "/" + "x" * 100_000}}))


@given(pod=pods())
def test_what_is_rewritten_can_be_given_back(pod: Json) -> None:
    """Given back, a probe asks for the same; only what was implied is written out."""
    rewritten, targets = _rewrite(pod)
    restored = copy.deepcopy(rewritten)
    restore_probes(restored, decode_targets(encode_targets(targets)), OWN_CONTAINERS)
    assert _rewrite(restored) == (rewritten, targets)


def test_the_kubelet_finds_nothing_to_expand() -> None:
    target = ProbeTarget(container="web", kind="liveness", handler="http", port=80, path="/$(HOME)$$")
    text = encode_targets([target])
    assert "$" not in text
    assert decode_targets(text) == {("web", "liveness"): target}


@pytest.mark.parametrize(
    "text",
    ["", "x", "{}", '[{"container":"web"}]', '[{"container":"web","kind":"no","handler":"tcp","port":1}]'],
)
def test_a_list_that_injection_did_not_write_is_refused(text: str) -> None:
    with pytest.raises(InjectionRefusedError) as caught:
        decode_targets(text)
    assert caught.value.refusal is InjectionRefusal.LOOK_ALIKE


@pytest.mark.parametrize(
    ("containers", "secret"),
    [
        ([], ""),
        (["web"], ""),  # Release 0.1.
        ([f"{SECRET}/web", f"{SECRET}/api"], SECRET),
        ([f"{SECRET}/web", f"{'cd' * 16}/api"], ""),
        (["guess/web"], ""),
        ([f"{SECRET}/x/web"], ""),
    ],
)
def test_a_pods_secret_is_found_again_if_it_is_one(containers: list[str], secret: str) -> None:
    targets = [ProbeTarget(container=each, kind="liveness", handler="tcp", port=80) for each in containers]
    assert find_secret(decode_targets(encode_targets(targets))) == secret


@pytest.mark.parametrize("path", ["/probe/web/liveness", "/probe/web/readiness"])
def test_a_probe_of_the_sidecar_that_nothing_explains_is_refused(path: str) -> None:
    pod = make_pod_of(livenessProbe={"httpGet": {"path": path, "port": HEALTH_PORT}})
    targets = {
        ("web", "readiness"): ProbeTarget(container="web", kind="readiness", handler="tcp", port=80),
    }
    with pytest.raises(InjectionRefusedError) as caught:
        restore_probes(pod, targets, OWN_CONTAINERS)
    assert caught.value.refusal is InjectionRefusal.LOOK_ALIKE


def test_targets_are_json_as_the_sidecar_reads_them() -> None:
    target = ProbeTarget(container="web", kind="liveness", handler="tcp", port=80)
    assert msgspec.json.decode(encode_targets([target]), type=tuple[ProbeTarget, ...]) == (target,)
