"""Pods that can't or mustn't be injected, and ephemeral containers that an injected pod mustn't get. Pure.

Belongs here: each reason to refuse. Doesn't: the codes' hints (``refusals.py``), or the patch.

What this does *not* see: an image's own user (``USER 1337``) and entry point (systemd, s6), what a program listens on
without declaring it, Pod Security defaults of the whole cluster, and changes to the running pod by a user
with rights on the node.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from shared.model.injection.containers import OWN_CONTAINERS, OWN_VOLUMES
from shared.model.injection.pod_json import (
    Container,
    Json,
    get_flag,
    get_number,
    get_object,
    get_objects,
    get_text,
    get_texts,
    list_containers,
)
from shared.model.injection.refusals import InjectionRefusal, InjectionRefusedError
from shared.model.kubernetes.contract import (
    OWN_PORTS,
    SIDECAR_CONTAINER,
    SIDECAR_UID,
    SYSTEM_NAMESPACE,
    TOKEN_AUDIENCE,
    TOKEN_VOLUME,
    ProbeTarget,
)

NEVER_INJECTED: Final = ("kube-system", "kube-public", "kube-node-lease")  # And Touchmark's own.
ENFORCE_LABEL: Final = "pod-security.kubernetes.io/enforce"
_FORBIDDING_LEVELS: Final = ("baseline", "restricted")
# They undo capture (the first four), reach the sidecar's memory, or reach around the container's borders.
DANGEROUS_CAPABILITIES: Final = frozenset(
    {
        "ALL", "NET_ADMIN", "SYS_ADMIN", "BPF", "SYS_PTRACE", "PERFMON", "CHECKPOINT_RESTORE", "DAC_READ_SEARCH",
        "SYS_MODULE", "SYS_RAWIO",
    }
)  # fmt: skip
_INIT_PROGRAMS: Final = ("/sbin/init", "/usr/sbin/init", "/init", "systemd", "s6-svscan", "runsvdir", "runit")


def check_namespace(namespace: str, labels: Mapping[str, str] | None, *, own_namespace: str = SYSTEM_NAMESPACE) -> None:
    """Check that the namespace may have injected pods.

    Arguments:
        own_namespace: the CA's.
        labels: of the namespace; None when they aren't known, which leaves its Pod Security level to the API server.

    Raises:
        InjectionRefusedError: it is one of the cluster's or Touchmark's own, or its Pod Security level forbids it.
    """
    if namespace == own_namespace or namespace in NEVER_INJECTED:
        raise InjectionRefusedError(
            InjectionRefusal.SYSTEM_NAMESPACE, f"pods in the namespace {namespace} are never injected"
        )
    level = (labels or {}).get(ENFORCE_LABEL, "")
    if level in _FORBIDDING_LEVELS:
        raise InjectionRefusedError(
            InjectionRefusal.POD_SECURITY,
            f"the namespace {namespace} enforces the Pod Security level {level}, which forbids the sidecar",
        )


def find_node_trait(pod: Json) -> tuple[InjectionRefusal, str] | None:
    """Return what makes a pod one of its node's own, such as a node exporter; None for every other pod.

    Such a pod can't be injected: it shares the node's network or processes, or has all privileges there. One with a
    container of our name is none: its capture would redirect the node's connections, and ``check_pod`` refuses it.
    """
    spec = get_object(pod, "spec", "pod")
    containers = [each for kind in ("initContainers", "containers") for each in list_containers(pod, kind)]
    if any(container.name in OWN_CONTAINERS for container in containers):
        return None
    if get_flag(spec, "hostNetwork", "spec"):
        return InjectionRefusal.HOST_NETWORK, "shares the node's network"
    if get_flag(spec, "hostPID", "spec"):
        return InjectionRefusal.HOST_PID, "shares the node's process namespace"
    for container in containers:
        security = get_object(container.body, "securityContext", container.path)
        if get_flag(security, "privileged", f"{container.path}.securityContext"):
            return InjectionRefusal.PRIVILEGED, f"has a privileged container, {container.name}"
    return None


def check_pod(pod: Json, *, ca_host: str) -> None:
    """Check a pod as it was before injection.

    Arguments:
        ca_host: the name by which its sidecar will look for the CA.

    Raises:
        InjectionRefusedError: something in it conflicts with the sidecar.
    """
    spec = get_object(pod, "spec", "pod")
    if (
        get_text(get_object(spec, "os", "spec"), "name", "spec.os") == "windows"
        or get_object(spec, "nodeSelector", "spec").get("kubernetes.io/os") == "windows"
    ):
        raise InjectionRefusedError(InjectionRefusal.WINDOWS, "a Windows pod can't be injected", path="spec")
    if get_flag(spec, "hostNetwork", "spec"):
        raise InjectionRefusedError(
            InjectionRefusal.HOST_NETWORK, "the pod shares the node's network", path="spec.hostNetwork"
        )
    if get_flag(spec, "hostPID", "spec"):
        raise InjectionRefusedError(
            InjectionRefusal.HOST_PID, "the pod shares the node's process namespace", path="spec.hostPID"
        )
    if get_flag(spec, "shareProcessNamespace", "spec") is False:
        raise InjectionRefusedError(
            InjectionRefusal.PROCESS_SHARING_OFF,
            "the pod's containers don't share a process namespace",
            path="spec.shareProcessNamespace",
        )
    for index, alias in enumerate(get_objects(spec, "hostAliases", "spec")):
        if ca_host in get_texts(alias, "hostnames", f"spec.hostAliases[{index}]"):
            raise InjectionRefusedError(
                InjectionRefusal.HOST_ALIAS,
                f"the pod overrides the address of {ca_host}",
                path=f"spec.hostAliases[{index}]",
            )
    _check_volumes(spec)
    for kind in ("initContainers", "containers"):
        for container in list_containers(pod, kind):
            if container.name in OWN_CONTAINERS:
                raise InjectionRefusedError(
                    InjectionRefusal.NAME_TAKEN,
                    f"the name {container.name} is reserved for the sidecar",
                    path=f"{container.path}.name",
                )
            _check_container(container, spec)


def check_ephemeral_containers(pod: Json, before: Json | None) -> None:
    """Check the ephemeral containers that an injected pod is getting (``kubectl debug``).

    Arguments:
        pod: with the new ones.
        before: the same pod without them; what it has already isn't checked again.

    Raises:
        InjectionRefusedError: one of them could undo capture, imitate the sidecar or read its token.
    """
    if not any(container.name == SIDECAR_CONTAINER for container in list_containers(pod, "initContainers")):
        return
    known = {container.name for container in list_containers(before or {}, "ephemeralContainers")}
    for container in list_containers(pod, "ephemeralContainers"):
        if container.name not in known:
            _check_container(container, get_object(pod, "spec", "pod"))


def check_targets(targets: tuple[ProbeTarget, ...]) -> None:
    """Check that no probe asks the sidecar itself.

    Raises:
        InjectionRefusedError: one does.
    """
    for target in targets:
        if target.port in OWN_PORTS:
            raise InjectionRefusedError(
                InjectionRefusal.PORT_TAKEN,
                f"the {target.kind} probe of the container {target.container_name} targets port {target.port},"
                " which is reserved for the sidecar",
            )


def _check_volumes(spec: Json) -> None:
    for index, volume in enumerate(get_objects(spec, "volumes", "spec")):
        path = f"spec.volumes[{index}]"
        name = get_text(volume, "name", path)
        if name in OWN_VOLUMES:
            raise InjectionRefusedError(
                InjectionRefusal.NAME_TAKEN, f"the name {name} is reserved for the sidecar", path=f"{path}.name"
            )
        projected = get_object(volume, "projected", path)
        for source in get_objects(projected, "sources", f"{path}.projected"):
            token = get_object(source, "serviceAccountToken", f"{path}.projected.sources")
            if token.get("audience") == TOKEN_AUDIENCE:
                raise InjectionRefusedError(
                    InjectionRefusal.TOKEN, f"a volume holds a token for {TOKEN_AUDIENCE}", path=path
                )


def _check_container(container: Container, spec: Json) -> None:
    path = container.path
    security = get_object(container.body, "securityContext", path)
    if get_flag(security, "privileged", f"{path}.securityContext"):
        raise InjectionRefusedError(
            InjectionRefusal.PRIVILEGED,
            f"the container {container.name} is privileged",
            path=f"{path}.securityContext.privileged",
        )
    capabilities = get_object(security, "capabilities", f"{path}.securityContext")
    for capability in get_texts(capabilities, "add", f"{path}.securityContext.capabilities"):
        if capability.upper().removeprefix("CAP_") in DANGEROUS_CAPABILITIES:
            raise InjectionRefusedError(
                InjectionRefusal.CAPABILITY,
                f"the container {container.name} has the capability {capability[:40]}",
                path=f"{path}.securityContext.capabilities.add",
                hint=_hint_at_debugging(path, capability),
            )
    of_pod = get_object(spec, "securityContext", "spec")
    user = get_number(security, "runAsUser", f"{path}.securityContext")
    if user is None:
        user = get_number(of_pod, "runAsUser", "spec.securityContext")
    if user == SIDECAR_UID:
        raise InjectionRefusedError(
            InjectionRefusal.SIDECAR_UID,
            f"the container {container.name} runs as the sidecar's user, {SIDECAR_UID}",
            path=f"{path}.securityContext.runAsUser",
        )
    if get_text(security, "procMount", f"{path}.securityContext") == "Unmasked":
        raise InjectionRefusedError(
            InjectionRefusal.PROC_MOUNT,
            f"the container {container.name} has an unmasked /proc",
            path=f"{path}.securityContext.procMount",
        )
    windows = get_object(security, "windowsOptions", f"{path}.securityContext")
    if get_flag(windows, "hostProcess", f"{path}.securityContext.windowsOptions"):
        raise InjectionRefusedError(InjectionRefusal.WINDOWS, "a Windows pod can't be injected", path=path)
    for mount in get_objects(container.body, "volumeMounts", path):
        if mount.get("name") == TOKEN_VOLUME:
            raise InjectionRefusedError(
                InjectionRefusal.TOKEN, f"the container {container.name} mounts the sidecar's token", path=path
            )
    _check_ports(container)
    _check_command(container)


def _check_ports(container: Container) -> None:
    for index, port in enumerate(get_objects(container.body, "ports", container.path)):
        path = f"{container.path}.ports[{index}]"
        number = get_number(port, "containerPort", path)
        if number in OWN_PORTS and get_text(port, "protocol", path) in {"", "TCP"}:
            raise InjectionRefusedError(
                InjectionRefusal.PORT_TAKEN, f"port {number} is reserved for the sidecar", path=f"{path}.containerPort"
            )


def _check_command(container: Container) -> None:
    command = get_texts(container.body, "command", container.path)
    program = command[0] if command else ""
    if program in _INIT_PROGRAMS or program.rpartition("/")[2] in _INIT_PROGRAMS:
        raise InjectionRefusedError(
            InjectionRefusal.DEPENDS_ON_PID_1,
            f"the container {container.name} runs {program[:80]}, which must be PID 1",
            path=f"{container.path}.command",
        )


def _hint_at_debugging(path: str, capability: str) -> str:
    if path.startswith("spec.ephemeralContainers") and capability.upper().endswith("SYS_PTRACE"):
        return "`kubectl debug` asks for it by default; use --profile=baseline or --profile=restricted"
    return ""
