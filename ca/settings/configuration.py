"""What the CA is told at its start, as one frozen value that is checked when it is built. Pure but for resolved paths.

Belongs here: the shape, the defaults, the limits and the checks across settings; addresses as text. Doesn't: options
(``settings.py``); whether a file or port can be used (``ca/runtime/run.py``).
"""

from __future__ import annotations

import ipaddress
import math
import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from shared.model.errors import InputError
from shared.model.identity.identity import check_namespace, check_trust_domain
from shared.model.injection.containers import DEFAULT_CA_ADDRESS
from shared.model.kubernetes.contract import CA_SERVICE, SYSTEM_NAMESPACE
from shared.model.trust.renewal import DEFAULT_GRACE_S, MAX_GRACE_S

DEFAULT_TRUST_DOMAIN = "touchmark.local"
# Renewed at half of it, every certificate outlasts two hours without a store (docs/explanation/architecture.md).
DEFAULT_LEAF_LIFETIME_S = 18_000.0
# A leaf shorter than this renews all the time; one longer than a day makes every revocation wait that long.
LEAF_LIFETIME_RANGE_S = (300.0, 86_400.0)  # As ca/authority/sign.py has it.
MAX_SIDECAR_IMAGES = 16
MAX_SAMPLING = 1_000_000
MAX_WEBHOOK_TOKENS = 8
# What nobody guesses, and what a line of the webhook's headers holds.
MIN_TOKEN_CHARACTERS, MAX_TOKEN_CHARACTERS = 32, 1024
_TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*")  # RFC 6750, section 2.1.
DEFAULT_TRUST_DELAY_S = 120.0
_MAX_UNIX_PATH_BYTES = 107  # unix(7): sun_path holds 108 bytes with the final zero.


class SigningProcessMode(StrEnum):
    """When there is a signing process: while there is much to sign and a processor for it, always, or never."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """The CA's options.

    Attributes:
        host, port: where sidecars connect. Port 0 takes a free one (for tests; the log names it).
        names: further IP addresses and DNS names for the server certificate, beside ``host``.
        leaf_lifetime_s: of leaves, ``LEAF_LIFETIME_RANGE_S``.
        renewal_grace_s: for how long after its last certificate's end a sidecar outside Kubernetes may come back by its
            renewal key; 0: never.
        decisions_max_age_s, decisions_max_rows, decisions_max_bytes: what of the decisions is kept.
        edges_max_age_s, edges_max_bytes: what of the edges (who talked to whom, by hour) is kept.
        max_streams: sidecars at once.
        signing_process: when requests are checked and certificates signed beside the CA's own process.
        lock_wait_s: how long a start waits for another CA to leave the data directory. In a cluster a pod is replaced
            while the former one ends (30 s), and the startup probe gives the new one 60 s.
        database: URL of a PostgreSQL database that several replicas share; empty: SQLite in ``data_dir``.
        kubernetes: work in a cluster: pods join by their tokens, the directory is what the API server says.
        namespace: the CA's own, with its Service, its Lease and the Secret of its key.
        kubeconfig: how to reach the API server; None: as the pod's own service account.
        sidecar_images: image references of sidecars that may join, as they stand in the pods' specs; several while an
            upgrade runs. Named by digest they are exact; a tag means whatever it points to.
        image_grace_s: how long pods stay whose sidecar's image was taken out of ``sidecar_images``; 0: not at all.
        kek_secret: the Secret in the CA's namespace that holds the key-encryption key; empty: ``kek_file`` does.
        admin_readers: group (name or number) that reads on the admin socket; empty: only root and the CA's user use it.
        admin_host, admin_port: loopback TCP door of the admin API beside its Unix socket; empty: there is none.
        webhook_host, webhook_port: where the API server asks about new pods; empty: there is no webhook.
        webhook_tokens: one of them has to come with whatever the webhook is asked; none: anybody may ask.
        sidecar_pull_policy: of the injected containers, which have the first of ``sidecar_images``.
        sidecar_ca: ``host:port`` at which injected sidecars find this CA.
        trust_delay_s: how late a kubelet may show a pod a changed ConfigMap (its ``syncFrequency``, a minute by
            default, and what its cache adds): a new root's activation waits as long after it was published.
        otlp_logs: URL of an OpenTelemetry collector that gets the decisions; empty: none.
        otlp_traces: URL of one that gets traces of issuances and admin acts; empty: none.
        trace_every: one of so many is traced whose caller says nothing of traces; 0: none.
        otlp_headers: sent to both, as OpenTelemetry writes them: ``name=value,name=value``.
        syslog: ``host:port`` of a syslog server with TLS that gets the decisions as CEF; empty: none.
        forward_roots: file with the root certificates that vouch for both; None: the system's.
        edge_metrics: ``/metrics`` counts connections by workload; whoever reaches the port reads it.
        forward_allows: one of so many allowed connections is sent to them; 0: none. The others always are.
    """

    data_dir: Path
    kek_file: Path
    admin_socket: Path
    host: str = "127.0.0.1"
    port: int = 15443
    names: tuple[str, ...] = ()
    trust_domain: str = DEFAULT_TRUST_DOMAIN
    leaf_lifetime_s: float = DEFAULT_LEAF_LIFETIME_S
    rotation_minimum_wait_s: float = 0.0
    renewal_grace_s: float = DEFAULT_GRACE_S
    decisions_max_age_s: float = 7 * 86_400.0
    decisions_max_rows: int = 2_000_000
    decisions_max_bytes: int = 512 * 1024 * 1024
    edges_max_age_s: float = 30 * 86_400.0
    edges_max_bytes: int = 256 * 1024 * 1024
    max_streams: int = 10_000
    signing_process: SigningProcessMode = SigningProcessMode.AUTO
    lock_wait_s: float = 45.0
    log_level: str = "info"
    database: str = field(default="", repr=False)  # It may hold a password.
    kubernetes: bool = False
    namespace: str = SYSTEM_NAMESPACE
    kubeconfig: Path | None = None
    sidecar_images: tuple[str, ...] = ()
    image_grace_s: float = 86_400.0
    kek_secret: str = ""
    admin_readers: str = ""
    admin_host: str = ""
    admin_port: int = 0
    webhook_host: str = ""
    webhook_port: int = 0
    webhook_tokens: tuple[str, ...] = field(default=(), repr=False)
    sidecar_pull_policy: str = "IfNotPresent"
    sidecar_ca: str = DEFAULT_CA_ADDRESS
    trust_delay_s: float = DEFAULT_TRUST_DELAY_S
    otlp_logs: str = ""
    otlp_traces: str = ""
    trace_every: int = 1
    otlp_headers: str = field(default="", repr=False)  # They may hold a token.
    syslog: str = ""
    forward_roots: Path | None = None
    forward_allows: int = 1
    edge_metrics: bool = False

    def __post_init__(self) -> None:
        check_trust_domain(self.trust_domain)
        low, high = LEAF_LIFETIME_RANGE_S
        if not low <= self.leaf_lifetime_s <= high:
            raise InputError(f"a leaf lives {low:.0f} to {high:.0f} seconds, not {self.leaf_lifetime_s:g}")
        if not 0 <= self.renewal_grace_s <= MAX_GRACE_S:
            raise InputError(f"--renewal-grace-s is 0 to {MAX_GRACE_S:.0f} (28 days), not {self.renewal_grace_s:g}")
        if self.kek_file.resolve().is_relative_to(self.data_dir.resolve()):
            raise InputError(
                "the key-encryption key must not lie inside the data directory",
                hint="a backup of the data directory would hold the keys and what opens them; move --kek-file",
            )
        if len(str(self.admin_socket).encode()) > _MAX_UNIX_PATH_BYTES:
            raise InputError(f"the admin socket's path is longer than {_MAX_UNIX_PATH_BYTES} bytes")
        numbers = (self.decisions_max_rows, self.decisions_max_bytes, self.edges_max_bytes, self.max_streams)
        if not (self.decisions_max_age_s > 0 and self.edges_max_age_s > 0) or min(numbers) < 1:
            raise InputError("limits must be positive")
        for wait_s in (self.rotation_minimum_wait_s, self.trust_delay_s, self.lock_wait_s, self.image_grace_s):
            if not 0 <= wait_s < math.inf:  # Also not a number that isn't one.
                raise InputError("waits and delays must be 0 or more seconds")
        if not 0 <= self.forward_allows <= MAX_SAMPLING:
            raise InputError(f"--forward-allows is 0 to {MAX_SAMPLING}")
        if not 0 <= self.trace_every <= MAX_SAMPLING:
            raise InputError(f"--trace-every is 0 to {MAX_SAMPLING}")
        if self.syslog:
            parse_endpoint(self.syslog)
        self._check_kubernetes()
        if self.admin_host and not _is_loopback(self.admin_host):
            raise InputError(
                f"the admin API listens on loopback addresses only, not on {self.admin_host[:80]}",
                hint="it doesn't ask who you are; reach it from elsewhere by `kubectl port-forward`",
            )

    def _check_kubernetes(self) -> None:
        if self.kubernetes and not self.sidecar_images:
            raise InputError("--kubernetes needs --sidecar-image", hint="no pod could join: name the sidecar's image")
        if not self.kubernetes and (self.sidecar_images or self.kek_secret or self.kubeconfig is not None):
            raise InputError("--sidecar-image and --kek-secret mean nothing without --kubernetes")
        if not self.kubernetes and self.webhook_host:
            raise InputError("--webhook-listen means nothing without --kubernetes")
        if self.webhook_tokens and not self.webhook_host:
            raise InputError("a token for the webhook means nothing without --webhook-listen")
        if len(self.webhook_tokens) > MAX_WEBHOOK_TOKENS or any(
            not MIN_TOKEN_CHARACTERS <= len(token) <= MAX_TOKEN_CHARACTERS or not _TOKEN.fullmatch(token)
            for token in self.webhook_tokens
        ):
            raise InputError(
                f"the webhook has at most {MAX_WEBHOOK_TOKENS} tokens, each of {MIN_TOKEN_CHARACTERS} to"
                f" {MAX_TOKEN_CHARACTERS} letters, digits and -._~+/=",
                hint="`openssl rand -hex 32` makes one",
            )
        parse_endpoint(self.sidecar_ca)
        check_namespace(self.namespace)
        if len(self.sidecar_images) > MAX_SIDECAR_IMAGES or any(
            not image or len(image) > 512 or image != image.strip() for image in self.sidecar_images
        ):
            raise InputError(f"at most {MAX_SIDECAR_IMAGES} sidecar images, each an image reference")

    @property
    def server_names(self) -> tuple[str, ...]:
        """Further names and addresses in the server's certificate; in a cluster also its Service's."""
        service = f"{CA_SERVICE}.{self.namespace}"
        of_service = (service, f"{service}.svc", f"{service}.svc.cluster.local")
        return (*self.names, *of_service) if self.kubernetes else self.names

    @property
    def listen(self) -> str:
        """``host:port`` as people write it."""
        return format_endpoint(self.host, self.port)


def parse_endpoint(text: str) -> tuple[str, int]:
    """Read ``host:port`` or ``[v6]:port``; port 0 to 65535.

    Raises:
        InputError: the text has another shape.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise InputError(f"not an address: {text[:120]!r}", hint="an IPv6 address is written [2001:db8::1]:15443")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise InputError(f"not an address: {text[:120]!r}", hint="write HOST:PORT, such as 127.0.0.1:15443")
    return host, int(port)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # A name: what it resolves to may change.
        return False


def format_endpoint(host: str, port: int) -> str:
    """Write ``host:port``, with brackets around an IPv6 address."""
    try:
        is_v6 = ipaddress.ip_address(host).version == 6
    except ValueError:
        is_v6 = False
    return f"[{host}]:{port}" if is_v6 else f"{host}:{port}"
