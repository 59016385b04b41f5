from __future__ import annotations

from typing import Any

import pytest

from shared.model.injection.checks import (
    DANGEROUS_CAPABILITIES,
    ENFORCE_LABEL,
    check_ephemeral_containers,
    check_namespace,
)
from shared.model.injection.checks import (
    check_pod as check_any_pod,
)
from shared.model.injection.json_patch import apply_patch
from shared.model.injection.patch import inject
from shared.model.injection.refusals import InjectionRefusal, InjectionRefusedError
from shared.model.kubernetes.contract import OWN_PORTS
from sidecar.capture.redirect_table import list_outbound_ports
from tests.shared.model.injection.golden_injection import OPTIONS
from tests.shared.model.injection.pods import Json, make_pod, make_pod_of


def check_pod(pod: Json) -> None:
    check_any_pod(pod, ca_host="ca.example")


def _refusal(check: Any, *arguments: Any) -> InjectionRefusedError:
    with pytest.raises(InjectionRefusedError) as caught:
        check(*arguments)
    return caught.value


@pytest.mark.parametrize("namespace", ["touchmark-system", "kube-system", "kube-public", "kube-node-lease"])
def test_the_clusters_and_our_own_namespaces_are_left_alone(namespace: str) -> None:
    assert _refusal(check_namespace, namespace, None).refusal is InjectionRefusal.SYSTEM_NAMESPACE


def test_our_own_namespace_has_any_name() -> None:
    with pytest.raises(InjectionRefusedError, match="mesh are never injected"):
        check_namespace("mesh", None, own_namespace="mesh")
    check_namespace("touchmark-system", None, own_namespace="mesh")


@pytest.mark.parametrize("level", ["baseline", "restricted"])
def test_a_pod_security_level_that_forbids_the_sidecar_is_named(level: str) -> None:
    error = _refusal(check_namespace, "shop", {ENFORCE_LABEL: level})
    assert error.refusal is InjectionRefusal.POD_SECURITY
    assert level in error.message
    assert "kubectl label namespace" in error.hint


@pytest.mark.parametrize("labels", [None, {}, {ENFORCE_LABEL: "privileged"}])
def test_other_namespaces_are_taken(labels: dict[str, str] | None) -> None:
    check_namespace("shop", labels)


@pytest.mark.parametrize("capability", sorted(DANGEROUS_CAPABILITIES))
@pytest.mark.parametrize("spelling", ["{}", "CAP_{}"])
def test_a_capability_that_undoes_the_sidecar_is_refused(capability: str, spelling: str) -> None:
    security = {"capabilities": {"add": [spelling.format(capability).lower()]}}
    assert _refusal(check_pod, make_pod_of(securityContext=security)).refusal is InjectionRefusal.CAPABILITY


def test_harmless_capabilities_and_users_are_taken() -> None:
    security = {"capabilities": {"add": ["NET_BIND_SERVICE", "CHOWN"]}, "runAsUser": 1000}
    check_pod({**make_pod_of(securityContext=security)})


def test_a_containers_own_user_wins_over_the_pods() -> None:
    pod = make_pod_of(securityContext={"runAsUser": 1})
    pod["spec"]["securityContext"] = {"runAsUser": 1337}
    check_pod(pod)


@pytest.mark.parametrize("port", sorted(OWN_PORTS))
def test_a_declared_port_of_ours_is_refused(port: int) -> None:
    assert _refusal(check_pod, make_pod_of(ports=[{"containerPort": port}])).refusal is InjectionRefusal.PORT_TAKEN
    check_pod(make_pod_of(ports=[{"containerPort": port, "protocol": "UDP"}]))


def test_the_outbound_ports_are_those_that_the_sidecar_listens_on() -> None:
    assert set(list_outbound_ports(15001, 15006, 15008)) < OWN_PORTS


@pytest.mark.parametrize("program", ["/sbin/init", "/lib/systemd/systemd", "/usr/bin/s6-svscan", "/init"])
def test_a_program_that_has_to_be_pid_1_is_refused_where_the_pod_says_so(program: str) -> None:
    assert _refusal(check_pod, make_pod_of(command=[program])).refusal is InjectionRefusal.DEPENDS_ON_PID_1


def test_a_pod_that_would_lead_its_sidecar_elsewhere_is_refused() -> None:
    pod = make_pod(hostAliases=[{"ip": "198.18.0.9", "hostnames": ["db", "ca.example"]}])
    assert _refusal(check_pod, pod).refusal is InjectionRefusal.HOST_ALIAS
    check_pod(make_pod(hostAliases=[{"ip": "198.18.0.9", "hostnames": ["db"]}]))


def test_a_windows_host_process_is_refused() -> None:
    pod = make_pod_of(securityContext={"windowsOptions": {"hostProcess": True}})
    assert _refusal(check_pod, pod).refusal is InjectionRefusal.WINDOWS


def test_a_token_for_another_audience_is_left_alone() -> None:
    source = {"serviceAccountToken": {"audience": "vault", "path": "token"}}
    check_pod(make_pod(volumes=[{"name": "vault", "projected": {"sources": [source, {"configMap": {"name": "x"}}]}}]))


@pytest.mark.parametrize("spec", [{"containers": "x"}, {"volumes": [1]}, {"hostNetwork": "yes"}, {"os": []}])
def test_a_shape_that_no_pod_has_is_refused(spec: Json) -> None:
    assert _refusal(check_pod, make_pod(**spec)).refusal is InjectionRefusal.MALFORMED_POD


def _injected(**ephemeral: Any) -> Json:
    pod = make_pod()
    injection = inject(pod, namespace="shop", namespace_labels=None, options=OPTIONS)
    assert injection is not None
    injected: Json = apply_patch(pod, injection.patch)
    injected["spec"]["ephemeralContainers"] = [{"name": "debugger", "image": "registry.example/debug:1", **ephemeral}]
    return injected


@pytest.mark.parametrize(
    ("ephemeral", "refusal"),
    [
        ({"securityContext": {"capabilities": {"add": ["SYS_PTRACE"]}}}, InjectionRefusal.CAPABILITY),
        ({"securityContext": {"capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}}}, InjectionRefusal.CAPABILITY),
        ({"securityContext": {"privileged": True}}, InjectionRefusal.PRIVILEGED),
        ({"securityContext": {"runAsUser": 1337}}, InjectionRefusal.SIDECAR_UID),
        ({"volumeMounts": [{"name": "touchmark-token", "mountPath": "/t"}]}, InjectionRefusal.TOKEN),
    ],
)
def test_an_ephemeral_container_that_could_undo_the_sidecar_is_refused(
    ephemeral: Json, refusal: InjectionRefusal
) -> None:
    assert _refusal(check_ephemeral_containers, _injected(**ephemeral), None).refusal is refusal


def test_kubectl_debugs_default_profile_is_explained() -> None:
    error = _refusal(
        check_ephemeral_containers, _injected(securityContext={"capabilities": {"add": ["SYS_PTRACE"]}}), None
    )
    assert "--profile=baseline" in error.hint


def test_other_ephemeral_containers_and_other_pods_are_left_alone() -> None:
    check_ephemeral_containers(_injected(), make_pod())
    check_ephemeral_containers(
        make_pod(ephemeralContainers=[{"name": "x", "securityContext": {"privileged": True}}]), {}
    )


def test_what_the_pod_has_already_does_not_stop_what_it_gets() -> None:
    before = _injected(securityContext={"privileged": True})
    check_ephemeral_containers(before, before)
