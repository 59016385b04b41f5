"""Why injection refuses a pod: one enumeration with stable codes, and what to do about each. Pure.

A code is never renamed: people search for it, and alerts count it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from shared.model.errors import RefusedError


class InjectionRefusal(StrEnum):
    """A stable code for each thing that injection can't or mustn't take."""

    MALFORMED_POD = "malformed_pod"
    BAD_ANNOTATION = "bad_annotation"
    UNKNOWN_ANNOTATION = "unknown_annotation"
    SYSTEM_NAMESPACE = "system_namespace"
    POD_SECURITY = "pod_security"
    WINDOWS = "windows"
    HOST_NETWORK = "host_network"
    HOST_PID = "host_pid"
    PROCESS_SHARING_OFF = "process_sharing_off"
    DEPENDS_ON_PID_1 = "depends_on_pid_1"
    PRIVILEGED = "privileged"
    CAPABILITY = "capability"
    SIDECAR_UID = "sidecar_uid"
    PROC_MOUNT = "proc_mount"
    TOKEN = "token"
    NAME_TAKEN = "name_taken"
    PORT_TAKEN = "port_taken"
    HOST_ALIAS = "host_alias"
    PROBE_PORT_UNKNOWN = "probe_port_unknown"
    TOO_MANY_PROBES = "too_many_probes"
    LOOK_ALIKE = "look_alike"


HINTS: Final[dict[InjectionRefusal, str]] = {
    InjectionRefusal.MALFORMED_POD: "`kubectl explain pod.spec` shows the shape",
    InjectionRefusal.BAD_ANNOTATION: "correct the annotation, or remove it for the default",
    InjectionRefusal.UNKNOWN_ANNOTATION: "correct the name, or remove the annotation: it has no effect",
    InjectionRefusal.SYSTEM_NAMESPACE: "run the pod in another namespace",
    InjectionRefusal.POD_SECURITY: (
        "capture needs NET_ADMIN, attestation SYS_PTRACE and DAC_READ_SEARCH; only the level privileged allows them:"
        " kubectl label namespace NAMESPACE --overwrite pod-security.kubernetes.io/enforce=privileged"
    ),
    InjectionRefusal.WINDOWS: 'Touchmark runs on Linux nodes only; annotate the pod with touchmark.dev/inject: "false"',
    InjectionRefusal.HOST_NETWORK: (
        "capture would redirect the node's connections; remove hostNetwork or the injection request"
    ),
    InjectionRefusal.HOST_PID: (
        "attestation covers the pod's own processes only; remove hostPID or the injection request"
    ),
    InjectionRefusal.PROCESS_SHARING_OFF: (
        "attestation needs it; remove `shareProcessNamespace: false` or the injection request"
    ),
    InjectionRefusal.DEPENDS_ON_PID_1: (
        "in a shared process namespace the pod's own pause process is PID 1; run the program itself, without an init"
    ),
    InjectionRefusal.PRIVILEGED: "it could undo capture and read the sidecar's keys; remove the privilege",
    InjectionRefusal.CAPABILITY: "it could undo capture or read the sidecar's keys; remove the capability",
    InjectionRefusal.SIDECAR_UID: "connections of that user aren't captured; run the container as another user",
    InjectionRefusal.PROC_MOUNT: "remove procMount",
    InjectionRefusal.TOKEN: "only the sidecar may hold a token for Touchmark's CA; remove the volume or mount",
    InjectionRefusal.NAME_TAKEN: "choose another name",
    InjectionRefusal.PORT_TAKEN: "let the program listen on another port",
    InjectionRefusal.HOST_ALIAS: "it would send the sidecar to another host; remove the alias",
    InjectionRefusal.PROBE_PORT_UNKNOWN: "name one of the same container's ports, or write the number",
    InjectionRefusal.TOO_MANY_PROBES: "use fewer or shorter probes and hooks",
    InjectionRefusal.LOOK_ALIKE: "inject the original manifest, without Touchmark's containers",
}


class InjectionRefusedError(RefusedError):
    """Injection can't or mustn't take this pod.

    Arguments:
        refusal: the stable code.
        path: where in the pod the reason stands, such as ``spec.containers[0].securityContext``.
        hint: instead of the code's own.
    """

    def __init__(self, refusal: InjectionRefusal, message: str, *, path: str = "", hint: str = "") -> None:
        super().__init__(f"{path}: {message}" if path else message, hint=hint or HINTS[refusal])
        self.refusal = refusal
        self.path = path

    def describe(self) -> str:
        """Write code, place, message and hint as one line, as ``kubectl`` shows it."""
        return f"{self.refusal}: {self.message} (hint: {self.hint})"
