"""Evidence about a pod: is its sidecar ours, and is it alone with its token? Pure.

Belongs here: the fields of a pod that count, and what a pod must look like whose sidecar may join. Doesn't: reading it
from the API server, or whose token it is (``ca/authenticate/pod.py``).

Injection makes such pods, but whoever may create pods can write one by hand and leave the webhook out. So nothing is
taken on an annotation's word: the container runs our image by its own entry point, with options that lead to this CA
and nowhere else, nothing else of the pod's author's in it, and nobody in the pod can look into it.

What this does *not* see: what the image's name points to (name it by digest), ``kubectl exec`` into the sidecar (a
right of its own, ``pods/exec``), what a node's root does, and DNS (the CA is known by the roots in its ConfigMap).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from shared.model.injection.refusals import InjectionRefusal
from shared.model.kubernetes.contract import (
    CAPTURE_CONTAINER,
    HOLDING_COMMAND,
    SIDECAR_CONTAINER,
    SIDECAR_UID,
    TOKEN_AUDIENCE,
    TOKEN_DIRECTORY,
    TOKEN_VOLUME,
    TRUST_CONFIG_MAP,
    TRUST_DIRECTORY,
    TRUST_KEY,
    TRUST_VOLUME,
)

# They reach the sidecar's memory, undo its capture, or reach around the container's borders.
DANGEROUS_CAPABILITIES: Final = frozenset(
    {
        "ALL", "NET_ADMIN", "SYS_ADMIN", "BPF", "SYS_PTRACE", "PERFMON", "CHECKPOINT_RESTORE", "DAC_READ_SEARCH",
        "SYS_MODULE", "SYS_RAWIO",
    }
)  # fmt: skip
_ENDED: Final = frozenset({"Succeeded", "Failed"})
_FLAGS: Final = frozenset({"--redirect-installed"})
# Alone or with a word: both have been injected.
_HOLD: Final = "--hold-connects"
_HOLD_WORDS: Final = frozenset({"always", "auto", "never"})
# What a sidecar may be told. Anything else could lead it elsewhere: another configuration file, another CA.
_OPTIONS: Final = frozenset(
    {
        "--capture", "--ca", "--trust-domain", "--service-account-token", "--trust-file", "--health-port",
        "--drain-seconds", "--log-level", "--log-format", "--max-connections", "--max-executable-bytes",
        "--mtls-ports", "--mtls-destination-ports", "--workers",
    }
)  # fmt: skip
_VARIABLES: Final = "TOUCHMARK_"
# The API server's own admission mounts its token into every container.
_API_TOKEN_DIRECTORY: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
_CAPTURE_ARGUMENTS: Final = ("-m", "sidecar.capture.install")


class _Fields(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    pass


class Anything(_Fields, frozen=True):
    """Some object, whatever is in it. (``msgspec.Raw`` can't be optional.)"""


class Capabilities(_Fields, frozen=True):
    add: tuple[str, ...] = ()


class SecurityContext(_Fields, frozen=True):
    run_as_user: int | None = None
    privileged: bool | None = None
    proc_mount: str | None = None
    capabilities: Capabilities | None = None


class VolumeMount(_Fields, frozen=True):
    name: str
    mount_path: str = ""
    sub_path: str = ""
    sub_path_expr: str = ""


class Variable(_Fields, frozen=True):
    name: str


class Probe(_Fields, frozen=True):
    exec: Anything | None = None


class Container(_Fields, frozen=True):
    name: str
    image: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: tuple[Variable, ...] = ()
    env_from: tuple[Anything, ...] = ()
    restart_policy: str = ""
    working_dir: str = ""
    security_context: SecurityContext | None = None
    volume_mounts: tuple[VolumeMount, ...] = ()
    volume_devices: tuple[Anything, ...] = ()
    lifecycle: Anything | None = None
    startup_probe: Probe | None = None
    liveness_probe: Probe | None = None
    readiness_probe: Probe | None = None


class TokenSource(_Fields, frozen=True):
    audience: str = ""


class Source(_Fields, frozen=True):
    service_account_token: TokenSource | None = None


class Projected(_Fields, frozen=True):
    sources: tuple[Source, ...] = ()


class ConfigMapVolume(_Fields, frozen=True):
    name: str = ""
    items: tuple[Anything, ...] = ()


class Volume(_Fields, frozen=True):
    name: str
    projected: Projected | None = None
    config_map: ConfigMapVolume | None = None


class HostAlias(_Fields, frozen=True):
    hostnames: tuple[str, ...] = ()


class PodSecurity(_Fields, frozen=True):
    run_as_user: int | None = None


class PodSpec(_Fields, frozen=True):
    service_account_name: str = ""
    node_name: str = ""
    host_network: bool = False
    host_pid: bool = msgspec.field(name="hostPID", default=False)
    share_process_namespace: bool | None = None
    security_context: PodSecurity | None = None
    host_aliases: tuple[HostAlias, ...] = ()
    volumes: tuple[Volume, ...] = ()
    init_containers: tuple[Container, ...] = ()
    containers: tuple[Container, ...] = ()
    ephemeral_containers: tuple[Container, ...] = ()


class Annotations(_Fields, frozen=True):
    inject: str = msgspec.field(name="touchmark.dev/inject", default="")


class PodMetadata(_Fields, frozen=True):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    annotations: Annotations | None = None


class PodIP(_Fields, frozen=True):
    ip: str = ""


class ContainerStatus(_Fields, frozen=True):
    name: str = ""
    image: str = ""
    image_id: str = msgspec.field(name="imageID", default="")
    container_id: str = msgspec.field(name="containerID", default="")


class PodStatus(_Fields, frozen=True):
    phase: str = ""
    container_statuses: tuple[ContainerStatus, ...] = ()
    init_container_statuses: tuple[ContainerStatus, ...] = ()
    ephemeral_container_statuses: tuple[ContainerStatus, ...] = ()
    pod_ips: tuple[PodIP, ...] = msgspec.field(name="podIPs", default=())


class Pod(_Fields, frozen=True):
    """The fields of a pod that the CA reads; others are skipped while decoding."""

    metadata: PodMetadata
    spec: PodSpec
    status: PodStatus = PodStatus()

    @property
    def is_ended(self) -> bool:
        """All its containers have ended for good, and its address may be somebody else's."""
        return self.status.phase in _ENDED

    @property
    def is_terminating(self) -> bool:
        """Its deletion has been asked for; it may run on for its grace period."""
        return self.metadata.deletion_timestamp is not None

    @property
    def has_sidecar(self) -> bool:
        """A container has our sidecar's name: the pod is, or claims to be, in the mesh."""
        return any(container.name == SIDECAR_CONTAINER for container in self.spec.init_containers)


def find_node_trait(pod: Pod) -> str:
    """Return why a pod that only its namespace wants injected is passed over, as a refusal's code; empty when it isn't.

    As ``shared/model/injection/checks.py`` decides it at admission; a test compares both.
    """
    spec = pod.spec
    containers = (*spec.init_containers, *spec.containers)
    if any(container.name in (CAPTURE_CONTAINER, SIDECAR_CONTAINER) for container in containers):
        return ""
    if spec.host_network:
        return str(InjectionRefusal.HOST_NETWORK)
    if spec.host_pid:
        return str(InjectionRefusal.HOST_PID)
    if any(each.security_context is not None and each.security_context.privileged for each in containers):
        return str(InjectionRefusal.PRIVILEGED)
    return ""


def find_fault(pod: Pod, *, images: Sequence[str], ca_names: Iterable[str]) -> str:
    """Return why this pod's sidecar may not join, as a sentence without its subject; empty when it may.

    Arguments:
        images: references of our sidecar's images, as they stand in pods' specs.
        ca_names: host names and addresses of this CA, to which a sidecar may be sent.
    """
    spec = pod.spec
    own = [container for container in spec.init_containers if container.name == SIDECAR_CONTAINER]
    names = frozenset(ca_names)
    if not own:
        return f"has no init container {SIDECAR_CONTAINER}"
    if spec.host_network or spec.host_pid:
        return "uses the node's network or sees its processes"
    if not spec.share_process_namespace:
        return "doesn't share its process namespace"
    if not names.isdisjoint(name for alias in spec.host_aliases for name in alias.hostnames):
        return "has a host alias for the CA's name"
    return (
        _find_sidecar_fault(own[0], images, names)
        or _find_volume_fault(spec.volumes)
        or _find_capture_fault(spec.init_containers, images)
        or _find_neighbour_fault(spec, own[0])
    )


def _find_sidecar_fault(sidecar: Container, images: Sequence[str], ca_names: frozenset[str]) -> str:
    security = sidecar.security_context or SecurityContext()
    if sidecar.image not in images:
        return f"has a sidecar of an image that may not join: {sidecar.image[:200]}"
    if sidecar.restart_policy != "Always":
        return "has a sidecar that is none: its restartPolicy isn't Always"
    if security.run_as_user != SIDECAR_UID or security.privileged:
        return f"has a sidecar that doesn't run as the unprivileged user {SIDECAR_UID}"
    # A working directory is where Python looks for modules first: in a mounted one lies somebody else's code.
    if (
        sidecar.command not in ((), HOLDING_COMMAND)
        or sidecar.working_dir
        or sidecar.lifecycle is not None
        or sidecar.env_from
        or sidecar.volume_devices
    ):
        return "has a sidecar with a command, a working directory, hooks or further environment"
    if any(probe is not None and probe.exec is not None for probe in _list_probes(sidecar)):
        return "has a sidecar with a probe that executes something"
    if strange := [each.name for each in sidecar.env if not each.name.startswith(_VARIABLES)]:
        return f"has a sidecar with a strange environment variable: {strange[0][:80]}"
    for mount in sidecar.volume_mounts:
        known = {TOKEN_DIRECTORY: TOKEN_VOLUME, TRUST_DIRECTORY: TRUST_VOLUME}.get(mount.mount_path)
        is_ours = mount.name == known and not mount.sub_path and not mount.sub_path_expr
        if not is_ours and mount.mount_path != _API_TOKEN_DIRECTORY:
            return f"has a sidecar with a strange mount: {mount.mount_path[:80]}"
    return _find_option_fault(sidecar.args, ca_names)


def _list_probes(container: Container) -> tuple[Probe | None, ...]:
    return container.startup_probe, container.liveness_probe, container.readiness_probe


def _find_option_fault(arguments: Sequence[str], ca_names: frozenset[str]) -> str:
    options: dict[str, str] = {}
    words = iter(arguments)
    before = ""
    for word in words:
        follows, before = before == _HOLD, word
        if word == _HOLD or (follows and word in _HOLD_WORDS):
            continue
        name, equals, value = word.partition("=")
        if name in _FLAGS and not equals:
            continue
        if name not in _OPTIONS or name in options:
            return f"has a sidecar with a strange option: {word[:80]}"
        options[name] = value if equals else next(words, "")
    host = options.get("--ca", "").rpartition(":")[0].strip("[]")
    if host not in ca_names:
        return f"has a sidecar of another CA: {host[:80]}"
    wanted = {
        "--trust-file": f"{TRUST_DIRECTORY}/{TRUST_KEY}",
        "--service-account-token": f"{TOKEN_DIRECTORY}/token",
    }
    for name, value in wanted.items():
        if options.get(name) != value:
            return f"has a sidecar whose {name} isn't {value}"
    return ""


def _find_volume_fault(volumes: Sequence[Volume]) -> str:
    by_name = {volume.name: volume for volume in volumes}
    trust = by_name.get(TRUST_VOLUME)
    if trust is None or trust.config_map is None or trust.config_map.name != TRUST_CONFIG_MAP or trust.config_map.items:
        return f"has a volume {TRUST_VOLUME} that isn't the whole ConfigMap {TRUST_CONFIG_MAP}"
    holders = [volume.name for volume in volumes if _holds_token(volume)]
    if holders != [TOKEN_VOLUME]:
        return (
            f"has other volumes with a token for {TOKEN_AUDIENCE} than {TOKEN_VOLUME}: {', '.join(holders) or 'none'}"
        )
    return ""


def _holds_token(volume: Volume) -> bool:
    sources = volume.projected.sources if volume.projected is not None else ()
    return any(each.service_account_token is not None and _is_for_us(each.service_account_token) for each in sources)


def _is_for_us(token: TokenSource) -> bool:
    return token.audience == TOKEN_AUDIENCE


def _find_capture_fault(containers: Sequence[Container], images: Sequence[str]) -> str:
    names = [container.name for container in containers]
    if names[:2] != [CAPTURE_CONTAINER, SIDECAR_CONTAINER] or names.count(SIDECAR_CONTAINER) != 1:
        return f"doesn't begin with {CAPTURE_CONTAINER} and {SIDECAR_CONTAINER}"
    capture = containers[0]
    if capture.image not in images:
        return f"has a {CAPTURE_CONTAINER} of an image that isn't ours: {capture.image[:200]}"
    return ""


def _find_neighbour_fault(spec: PodSpec, sidecar: Container) -> str:
    pod_user = spec.security_context.run_as_user if spec.security_context is not None else None
    for container in (*spec.init_containers, *spec.containers, *spec.ephemeral_containers):
        if container is sidecar:
            continue
        security = container.security_context or SecurityContext()
        user = security.run_as_user if security.run_as_user is not None else pod_user
        added = security.capabilities.add if security.capabilities is not None else ()
        capabilities = {name.upper().removeprefix("CAP_") for name in added}
        if _is_capture(container, sidecar.image):
            capabilities.discard("NET_ADMIN")
        what = f"has a container {container.name[:80]} that"
        if container.name == SIDECAR_CONTAINER:
            return f"{what} has the sidecar's name"
        if any(mount.name == TOKEN_VOLUME for mount in container.volume_mounts):
            return f"{what} mounts the sidecar's token"
        if security.privileged or security.proc_mount == "Unmasked":
            return f"{what} is privileged"
        if dangerous := sorted(capabilities & DANGEROUS_CAPABILITIES):
            return f"{what} has the capability {dangerous[0]}"
        if user == SIDECAR_UID:
            return f"{what} runs as the sidecar's user {SIDECAR_UID}"
    return ""


def _is_capture(container: Container, image: str) -> bool:
    return (
        container.name == CAPTURE_CONTAINER
        and container.image == image
        and container.command == ("python3",)
        and container.args[:2] == _CAPTURE_ARGUMENTS
        and not container.working_dir
        and not container.env
        and not container.env_from
        and not container.volume_devices
        and all(mount.mount_path == _API_TOKEN_DIRECTORY for mount in container.volume_mounts)
        and container.lifecycle is None
        and all(probe is None for probe in _list_probes(container))
    )
