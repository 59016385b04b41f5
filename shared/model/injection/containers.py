"""Touchmark's own containers and volumes in an injected pod, and whether a pod has exactly these. Pure.

Belongs here: what they look like. Doesn't: where they go, and what becomes of the others (``patch.py``).

Every default that the API server would fill in is written out: a container that comes back from it (re-invocation) then
equals what injection makes, and anything else in it was added by someone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from shared.model.errors import InputError
from shared.model.injection.pod_json import Json
from shared.model.injection.probes import encode_targets
from shared.model.injection.settings import Settings
from shared.model.kubernetes.contract import (
    CA_SERVICE,
    CAPTURE_CONTAINER,
    HEALTH_PORT,
    HOLDING_COMMAND,
    POD_IPS_VARIABLE,
    POD_NAME_VARIABLE,
    POD_NAMESPACE_VARIABLE,
    POD_UID_VARIABLE,
    PROBES_VARIABLE,
    SERVICE_ACCOUNT_VARIABLE,
    SIDECAR_CONTAINER,
    SIDECAR_UID,
    STREAM_PORT,
    SYSTEM_NAMESPACE,
    TOKEN_AUDIENCE,
    TOKEN_DIRECTORY,
    TOKEN_VOLUME,
    TRUST_CONFIG_MAP,
    TRUST_DIRECTORY,
    TRUST_KEY,
    TRUST_VOLUME,
    ProbeTarget,
)
from shared.model.kubernetes.quantity import parse_quantity
from shared.model.version import VERSION

TOKEN_FILE: Final = "token"
DEFAULT_CA_ADDRESS: Final = f"{CA_SERVICE}.{SYSTEM_NAMESPACE}.svc:{STREAM_PORT}"
PULL_POLICIES: Final = ("Always", "IfNotPresent", "Never")
MIN_TOKEN_LIFETIME_S: Final = 600  # The API server gives no shorter ones.
MAX_TOKEN_LIFETIME_S: Final = 3600
OWN_CONTAINERS: Final = (CAPTURE_CONTAINER, SIDECAR_CONTAINER)
OWN_VOLUMES: Final = (TOKEN_VOLUME, TRUST_VOLUME)
# The API server's own admission mounts its token into every container, ours as well, when it is asked again.
_API_TOKEN_DIRECTORY: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
_ALL_MODES: Final = 0o644  # Readable by the sidecar's user, whatever the pod's other containers run as.
_VARIABLES: Final = {
    POD_NAME_VARIABLE: "metadata.name",
    POD_NAMESPACE_VARIABLE: "metadata.namespace",
    POD_UID_VARIABLE: "metadata.uid",
    POD_IPS_VARIABLE: "status.podIPs",
    SERVICE_ACCOUNT_VARIABLE: "spec.serviceAccountName",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class InjectionOptions:
    """The CA operator's settings for every pod.

    Attributes:
        sidecar_image: reference of the sidecar's image, best with its digest.
        pull_policy: one of ``PULL_POLICIES``; empty: ``IfNotPresent``.
        draw_path_secret: draws the secret in the paths of a pod's probes and hooks (``probes.SECRET``); a pod that has
            one keeps it.
        ca_address: ``host:port`` at which sidecars find the CA.
        trust_domain: of the CA.
        token_lifetime_s: 600 to 3600; the kubelet renews the token at four fifths of it.
        version: written into the pod's annotation.
        own_namespace: the CA's, whose pods are never injected.

    Raises:
        InputError: one of them is invalid.
    """

    sidecar_image: str
    trust_domain: str
    draw_path_secret: Callable[[], str]
    ca_address: str = DEFAULT_CA_ADDRESS
    pull_policy: str = "IfNotPresent"
    token_lifetime_s: int = MAX_TOKEN_LIFETIME_S
    version: str = VERSION
    own_namespace: str = SYSTEM_NAMESPACE

    def __post_init__(self) -> None:
        image = self.sidecar_image
        if not image or not image.isprintable() or " " in image or "," in image:
            raise InputError(f"not an image: {image[:120]!r}", hint="set the sidecar's image with --sidecar-image")
        if self.pull_policy not in PULL_POLICIES:
            raise InputError(f"not a pull policy: {self.pull_policy[:80]!r}", hint=f"one of {', '.join(PULL_POLICIES)}")
        if not MIN_TOKEN_LIFETIME_S <= self.token_lifetime_s <= MAX_TOKEN_LIFETIME_S:
            raise InputError(f"a token's lifetime is {MIN_TOKEN_LIFETIME_S} to {MAX_TOKEN_LIFETIME_S} seconds")


def find_ca_host(options: InjectionOptions) -> str:
    """Return the host name or address at which sidecars find the CA."""
    return options.ca_address.rpartition(":")[0].strip("[]")


def make_capture_container(settings: Settings, options: InjectionOptions) -> Json:
    """Make the init container that redirects the pod's TCP connections, and exits.

    It runs as root, for a user's capabilities are only effective in a program with file capabilities. The sidecar's
    interpreter has other ones and wouldn't start here; the image's plain ``python3`` does.
    """
    arguments = ["-m", "sidecar.capture.install"]
    for name, values in (
        ("--exclude-inbound-port", settings.exclude_inbound_ports),
        ("--exclude-outbound-port", settings.exclude_outbound_ports),
        ("--exclude-outbound-cidr", settings.exclude_outbound_cidrs),
    ):
        for value in values:
            arguments += [name, str(value)]
    if settings.holds_connects != "never":
        arguments.append("--hold-connects")
        for port in settings.hold_ports:
            arguments += ["--hold-port", str(port)]
    return {
        "name": CAPTURE_CONTAINER,
        "command": ["python3"],
        "args": arguments,
        "securityContext": _secure(user=0, capabilities=["NET_ADMIN"]),
        **_common(settings, options),
    }


def make_sidecar_container(settings: Settings, options: InjectionOptions, targets: Sequence[ProbeTarget]) -> Json:
    """Make the native sidecar: an init container that is restarted and outlives the application."""
    arguments = [
        "--capture", "redirect", "--redirect-installed",
        "--ca", options.ca_address,
        "--trust-domain", options.trust_domain,
        "--service-account-token", f"{TOKEN_DIRECTORY}/{TOKEN_FILE}",
        "--trust-file", f"{TRUST_DIRECTORY}/{TRUST_KEY}",
        "--health-port", str(HEALTH_PORT),
    ]  # fmt: skip
    for name, ports in (
        ("--mtls-ports", settings.mtls_ports),
        ("--mtls-destination-ports", settings.mtls_destination_ports),
    ):
        if ports:
            arguments += [name, ",".join(str(port) for port in ports)]
    if settings.drain_s is not None:
        arguments += ["--drain-seconds", str(settings.drain_s)]
    if settings.workers is not None:
        arguments += ["--workers", str(settings.workers)]
    if settings.log_level:
        arguments += ["--log-level", settings.log_level]
    if settings.log_format:
        arguments += ["--log-format", settings.log_format]
    capabilities = ["SYS_PTRACE", "DAC_READ_SEARCH"]
    if settings.holds_connects != "never":
        # The kernel asks for it whenever a connection that waits is let pass.
        capabilities.append("NET_ADMIN")
        arguments += ["--hold-connects", settings.holds_connects]
    return {
        "name": SIDECAR_CONTAINER,
        **({"command": list(HOLDING_COMMAND)} if settings.holds_connects != "never" else {}),
        "args": arguments,
        "restartPolicy": "Always",
        "env": [
            *(
                {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": field}}}
                for name, field in _VARIABLES.items()
            ),
            {"name": PROBES_VARIABLE, "value": encode_targets(targets)},
        ],
        "securityContext": _secure(user=SIDECAR_UID, capabilities=capabilities),
        "startupProbe": {
            "httpGet": {"path": "/ready", "port": HEALTH_PORT, "scheme": "HTTP"},
            "periodSeconds": 1,
            "timeoutSeconds": 2,
            "successThreshold": 1,
            "failureThreshold": 120,
        },
        # A minute without an answer: the kubelet starts the sidecar anew, so that it doesn't hang with its application.
        "livenessProbe": {
            "httpGet": {"path": "/healthz", "port": HEALTH_PORT, "scheme": "HTTP"},
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "successThreshold": 1,
            "failureThreshold": 6,
        },
        "volumeMounts": [
            {"name": TOKEN_VOLUME, "mountPath": TOKEN_DIRECTORY, "readOnly": True},
            {"name": TRUST_VOLUME, "mountPath": TRUST_DIRECTORY, "readOnly": True},
        ],
        **_common(settings, options),
    }


def make_volumes(options: InjectionOptions) -> list[Json]:
    """Make the sidecar's volumes: the token for the CA, and the roots by which the CA is known."""
    token = {"audience": TOKEN_AUDIENCE, "expirationSeconds": options.token_lifetime_s, "path": TOKEN_FILE}
    return [
        {"name": TOKEN_VOLUME, "projected": {"defaultMode": _ALL_MODES, "sources": [{"serviceAccountToken": token}]}},
        {
            "name": TRUST_VOLUME,
            # Not optional: without the roots the CA can't be told from an impostor.
            "configMap": {"name": TRUST_CONFIG_MAP, "defaultMode": _ALL_MODES, "optional": False},
        },
    ]


def is_unchanged(found: Json, expected: Json) -> bool:
    """Return whether a container of a pod is the one that injection makes.

    Tolerated is what the API server's own admission adds: its token's mount (ServiceAccount) and further resources
    (LimitRanger). Anything else, such as one more variable in the environment, makes it another container.
    """
    try:
        return _normalise(found, expected) == _normalise(expected, expected)
    except (InputError, KeyError, TypeError, AttributeError):
        return False


def _normalise(container: Json, expected: Json) -> Json:
    container = copy.deepcopy(container)
    mounts = [each for each in container.get("volumeMounts") or [] if each.get("mountPath") != _API_TOKEN_DIRECTORY]
    container["volumeMounts"] = mounts
    resources: dict[str, Any] = {}
    for kind, quantities in expected["resources"].items():
        given = (container.get("resources") or {}).get(kind) or {}
        resources[kind] = {name: parse_quantity(str(given[name])) for name in quantities}
    container["resources"] = resources
    return container


def _common(settings: Settings, options: InjectionOptions) -> Json:
    # The capture container's resources cost nothing: it has ended when the sidecar, which has the same, starts.
    requests = {"cpu": settings.cpu_request, "memory": settings.memory_request}
    limits = {"memory": settings.memory_limit, **({"cpu": settings.cpu_limit} if settings.cpu_limit else {})}
    return {
        "image": options.sidecar_image,
        "imagePullPolicy": options.pull_policy,
        "resources": {"requests": requests, "limits": limits},
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _secure(*, user: int, capabilities: Sequence[str]) -> Json:
    return {
        "runAsUser": user,
        "runAsGroup": user,
        "runAsNonRoot": user != 0,
        "privileged": False,
        # File capabilities are still effective: what is added is in the permitted set already.
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": list(capabilities)},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
