"""Names and values that the CA, the sidecar and the command agree on in Kubernetes. Pure.

Belongs here: annotations, object and container names, ports, paths, and the few values that travel between injection
and sidecar. Doesn't: the patch itself (``shared/model/injection/patch.py``), or any talk with an API server.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from shared.model.errors import InputError

GROUP: Final = "touchmark.dev"
SYSTEM_NAMESPACE: Final = "touchmark-system"
FIELD_MANAGER: Final = "touchmark"

# On a pod (or its template) as an annotation, on a namespace as a label; "true" or "false". The pod's own word wins.
INJECT: Final = "touchmark.dev/inject"
# Written by injection: the version that did it. Present means injected.
INJECTED: Final = "touchmark.dev/injected"
EXCLUDE_INBOUND_PORTS: Final = "touchmark.dev/exclude-inbound-ports"
EXCLUDE_OUTBOUND_PORTS: Final = "touchmark.dev/exclude-outbound-ports"
EXCLUDE_OUTBOUND_CIDRS: Final = "touchmark.dev/exclude-outbound-cidrs"
# Ports of plain mutual TLS with foreign SPIFFE peers: served here, and dialled outside the mesh.
MTLS_PORTS: Final = "touchmark.dev/mtls-ports"
MTLS_DESTINATION_PORTS: Final = "touchmark.dev/mtls-destination-ports"
# "true", or destination ports: programs' connect() waits for the look at them, for which the sidecar keeps NET_ADMIN.
HOLD_CONNECTS: Final = "touchmark.dev/hold-connects"
# How long live connections may finish once the pod is told to end.
DRAIN_SECONDS: Final = "touchmark.dev/drain-seconds"
# How many threads of the sidecar move the bytes of established connections.
WORKERS: Final = "touchmark.dev/workers"
MAX_WORKERS: Final = 64  # More than a pod's sidecar ever has cores; each takes three descriptors and a stack.
LOG_LEVEL: Final = "touchmark.dev/log-level"
LOG_FORMAT: Final = "touchmark.dev/log-format"
# On a Program: who approved it, as the API server named the user to the command that wrote it. For people; no proof.
APPROVED_BY: Final = "touchmark.dev/approved-by"
# Of a MeshPolicy: make its namespace explicit although that would refuse connections that were seen. It counts in the
# write that brings a new value.
FORCE_EXPLICIT: Final = "touchmark.dev/force-explicit"
# In what `policy get` prints of a machine's CA: that a mode is on trial, and until when. For people.
TRIAL: Final = "touchmark.dev/trial"
# On the ConfigMap touchmark-trust: the mode in force, and, where no MeshPolicy says it, why it is in force. For people.
MODE_IN_FORCE: Final = "touchmark.dev/mode"
MODE_KEPT: Final = "touchmark.dev/mode-kept"
CPU_REQUEST: Final = "touchmark.dev/sidecar-cpu"
CPU_LIMIT: Final = "touchmark.dev/sidecar-cpu-limit"
MEMORY_REQUEST: Final = "touchmark.dev/sidecar-memory"
MEMORY_LIMIT: Final = "touchmark.dev/sidecar-memory-limit"

CA_SERVICE: Final = "touchmark-ca"
WEBHOOK_CONFIGURATION: Final = "touchmark"
# The one of its webhooks that fails open: without a CA, what a MeshPolicy says comes into force unjudged.
POLICY_WEBHOOK: Final = "policies.review.touchmark.dev"
LEASE: Final = "touchmark-ca"
CLUSTER_ROLE: Final = "touchmark-ca"
TRUST_CONFIG_MAP: Final = "touchmark-trust"
TRUST_KEY: Final = "roots.pem"
TOKEN_AUDIENCE: Final = "touchmark-ca"
# ValidatingAdmissionPolicies, each with a binding of its name: against exec into sidecars, and against tokens of that
# audience for anybody but nodes.
ADMISSION_POLICIES: Final = ("touchmark-sidecar-exec", "touchmark-token-requests", "touchmark-ca-exec")

CAPTURE_CONTAINER: Final = "touchmark-capture"
SIDECAR_CONTAINER: Final = "touchmark-sidecar"
TOKEN_VOLUME: Final = "touchmark-token"
TRUST_VOLUME: Final = "touchmark-trust"
TOKEN_DIRECTORY: Final = "/var/run/touchmark/token"
TRUST_DIRECTORY: Final = "/var/run/touchmark/trust"
SIDECAR_UID: Final = 1337
# The sidecar's entry point by the interpreter whose file capabilities include NET_ADMIN (Dockerfile.sidecar).
HOLDING_COMMAND: Final = ("/usr/local/bin/touchmark-python-net-admin", "-m", "sidecar")

STREAM_PORT: Final = 15443
WEBHOOK_PORT: Final = 15444
ADMIN_PORT: Final = 15081  # On the CA pod's loopback only.
OUTBOUND_PORT: Final = 15001
INBOUND_PORT: Final = 15006
TUNNEL_PORT: Final = 15008
HEALTH_PORT: Final = 15020  # The sidecar's own readiness, and the rewritten probes of its pod.
# The sidecar listens on these; outbound on 32 ports up to 15001 (sidecar/capture/redirect_table.py says why).
OWN_PORTS: Final = frozenset({*range(OUTBOUND_PORT - 31, OUTBOUND_PORT + 1), INBOUND_PORT, TUNNEL_PORT, HEALTH_PORT})

# The sidecar reads these; injection sets them, most from the downward API.
POD_NAME_VARIABLE: Final = "TOUCHMARK_POD_NAME"
POD_NAMESPACE_VARIABLE: Final = "TOUCHMARK_POD_NAMESPACE"
POD_UID_VARIABLE: Final = "TOUCHMARK_POD_UID"
POD_IPS_VARIABLE: Final = "TOUCHMARK_POD_IPS"
SERVICE_ACCOUNT_VARIABLE: Final = "TOUCHMARK_SERVICE_ACCOUNT"
PROBES_VARIABLE: Final = "TOUCHMARK_PROBES"

MAX_PROBES: Final = 256
_POD_NAME_CHARACTERS: Final = 55
_UID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def name_instance(pod_name: str, pod_uid: str) -> str:
    """Return the sidecar instance's name for a pod: readable, and another one for each pod that ever had the name.

    Arguments:
        pod_name: 1 to 253 characters, as Kubernetes allows them; cut to 55.
        pod_uid: a UUID in lower case; its first 8 digits are used.

    Raises:
        InputError: the UID isn't one.
    """
    if not _UID.fullmatch(pod_uid):
        raise InputError(f"not a pod's UID: {pod_uid[:80]!r}")
    return f"{pod_name[:_POD_NAME_CHARACTERS]}.{pod_uid[:8]}"


class ProbeTarget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One kubelet probe or lifecycle hook that the sidecar performs in the kubelet's place, fixed at injection.

    The kubelet asks ``GET /probe/<container>/<kind>`` on ``HEALTH_PORT``; the sidecar asks the application.

    Attributes:
        container: the pod's secret and the container's name, ``<secret>/<name>``: only who may read the pod's spec
            knows the path. Release 0.1 wrote the name alone, and serves either form as it stands.
        kind: ``liveness``, ``readiness``, ``startup``, ``post-start`` or ``pre-stop``.
        handler: ``http``, ``tcp`` or ``grpc``. Exec probes stay where they are.
        port: of the application, resolved.
        host: only in pods that release 0.1 injected, which sent such probes to the sidecar; put back, never asked.
        scheme: of ``http``: ``HTTP`` or ``HTTPS`` (the certificate isn't verified, as the kubelet doesn't).
        path: of ``http``, with its query.
        headers: of ``http``, in order.
        service: of ``grpc``: what ``grpc.health.v1.Health/Check`` is asked about.
        timeout_s: as the probe says, 1 to 3600.
    """

    container: str
    kind: str
    handler: str
    port: int
    host: str = ""
    scheme: str = "HTTP"
    path: str = "/"
    headers: tuple[tuple[str, str], ...] = ()
    service: str = ""
    timeout_s: int = 1

    def __post_init__(self) -> None:
        if self.kind not in ("liveness", "readiness", "startup", "post-start", "pre-stop"):
            raise InputError(f"unknown probe kind: {self.kind[:80]!r}")
        if self.handler not in ("http", "tcp", "grpc") or self.scheme not in ("HTTP", "HTTPS"):
            raise InputError(f"not a probe's handler: {self.handler[:80]!r} {self.scheme[:80]!r}")
        if not 1 <= self.port <= 65535 or not 1 <= self.timeout_s <= 3600:
            raise InputError(f"not a probe's port or time: {self.port}, {self.timeout_s} s")

    @property
    def container_name(self) -> str:
        """The container's name without the secret; no name of a container has a slash."""
        return self.container.rpartition("/")[2]

    @property
    def path_secret(self) -> str:
        """The secret that stands before the container's name; empty in pods that release 0.1 injected."""
        return self.container.rpartition("/")[0]

    @property
    def request_path(self) -> str:
        """The path by which the kubelet asks the sidecar."""
        return f"/probe/{self.container}/{self.kind}"
