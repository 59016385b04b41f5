"""What the CA is told at its start: options with defaults, checked once. Reads argv and the environment's paths.

Belongs here: the options' syntax and their limits. Doesn't: whether a file or port can be used (``ca/runtime/run.py``).
"""

from __future__ import annotations

import argparse
import ipaddress
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from shared.model.errors import InputError
from shared.model.identity.identity import check_trust_domain
from shared.model.injection.containers import DEFAULT_CA_ADDRESS
from shared.model.kubernetes.contract import CA_SERVICE, SYSTEM_NAMESPACE
from shared.runtime.paths import default_admin_socket, default_data_dir, default_kek_file

DEFAULT_LISTEN = "127.0.0.1:15443"
DEFAULT_TRUST_DOMAIN = "touchmark.local"
DEFAULT_LEAF_LIFETIME_S = 3600.0
# A leaf shorter than this renews all the time; one longer than a day makes every revocation wait that long.
LEAF_LIFETIME_RANGE_S = (300.0, 86_400.0)  # As ca/authority/sign.py has it.
MAX_SIDECAR_IMAGES = 16
DEFAULT_TRUST_DELAY_S = 120.0
DATABASE_VARIABLE = "TOUCHMARK_DATABASE_URL"
_MAX_UNIX_PATH_BYTES = 107  # unix(7): sun_path holds 108 bytes with the final zero.


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """The CA's options.

    Attributes:
        host, port: where sidecars connect. Port 0 takes a free one (for tests; the log names it).
        names: further IP addresses and DNS names for the server certificate, beside ``host``.
        leaf_lifetime_s: of leaves, ``LEAF_LIFETIME_RANGE_S``.
        decisions_max_age_s, decisions_max_rows: what of the decisions is kept.
        max_streams: sidecars at once.
        database: URL of a PostgreSQL database that several replicas share; empty: SQLite in ``data_dir``.
        kubernetes: work in a cluster: pods join by their tokens, the directory is what the API server says.
        kubeconfig: how to reach the API server; None: as the pod's own service account.
        sidecar_images: image references of sidecars that may join, as they stand in the pods' specs; several while an
            upgrade runs. Named by digest they are exact; a tag means whatever it points to.
        kek_secret: the Secret in the CA's namespace that holds the key-encryption key; empty: ``kek_file`` does.
        admin_host, admin_port: loopback TCP door of the admin API beside its Unix socket; empty: there is none.
        webhook_host, webhook_port: where the API server asks about new pods; empty: there is no webhook.
        sidecar_pull_policy: of the injected containers, which have the first of ``sidecar_images``.
        sidecar_ca: ``host:port`` at which injected sidecars find this CA.
        trust_delay_s: how late a kubelet may show a pod a changed ConfigMap (its ``syncFrequency``, a minute by
            default, and what its cache adds): a new root's activation waits as long after it was published.
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
    decisions_max_age_s: float = 7 * 86_400.0
    decisions_max_rows: int = 2_000_000
    max_streams: int = 10_000
    log_level: str = "info"
    database: str = field(default="", repr=False)  # It may hold a password.
    kubernetes: bool = False
    kubeconfig: Path | None = None
    sidecar_images: tuple[str, ...] = ()
    kek_secret: str = ""
    admin_host: str = ""
    admin_port: int = 0
    webhook_host: str = ""
    webhook_port: int = 0
    sidecar_pull_policy: str = "IfNotPresent"
    sidecar_ca: str = DEFAULT_CA_ADDRESS
    trust_delay_s: float = DEFAULT_TRUST_DELAY_S

    def __post_init__(self) -> None:
        check_trust_domain(self.trust_domain)
        low, high = LEAF_LIFETIME_RANGE_S
        if not low <= self.leaf_lifetime_s <= high:
            raise InputError(f"a leaf lives {low:.0f} to {high:.0f} seconds, not {self.leaf_lifetime_s:g}")
        if self.kek_file.resolve().is_relative_to(self.data_dir.resolve()):
            raise InputError(
                "the key-encryption key must not lie inside the data directory",
                hint="a backup of the data directory would hold the keys and what opens them; move --kek-file",
            )
        if len(str(self.admin_socket).encode()) > _MAX_UNIX_PATH_BYTES:
            raise InputError(f"the admin socket's path is longer than {_MAX_UNIX_PATH_BYTES} bytes")
        if not self.decisions_max_age_s > 0 or self.decisions_max_rows < 1 or self.max_streams < 1:
            raise InputError("limits must be positive")
        for wait_s in (self.rotation_minimum_wait_s, self.trust_delay_s):
            if not 0 <= wait_s < math.inf:  # Also not a number that isn't one.
                raise InputError("the rotation's minimum wait and the trust delay must be 0 or more seconds")
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
        parse_endpoint(self.sidecar_ca)
        if len(self.sidecar_images) > MAX_SIDECAR_IMAGES or any(
            not image or len(image) > 512 or image != image.strip() for image in self.sidecar_images
        ):
            raise InputError(f"at most {MAX_SIDECAR_IMAGES} sidecar images, each an image reference")

    @property
    def server_names(self) -> tuple[str, ...]:
        """Further names and addresses in the server's certificate; in a cluster also its Service's."""
        service = f"{CA_SERVICE}.{SYSTEM_NAMESPACE}"
        of_service = (service, f"{service}.svc", f"{service}.svc.cluster.local")
        return (*self.names, *of_service) if self.kubernetes else self.names

    @property
    def listen(self) -> str:
        """``host:port`` as people write it."""
        return format_endpoint(self.host, self.port)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(message, hint="python -m ca --help")


def parse_arguments(arguments: Sequence[str]) -> Configuration:
    """Read the command line.

    Raises:
        InputError: an option is unknown or its value can't be used. (IdentityError: the trust domain.)
        SystemExit: ``--help`` was answered.
    """
    parser = _Parser(prog="python -m ca", description="Touchmark's certificate authority.", allow_abbrev=False)
    add = parser.add_argument
    add("--data-dir", type=Path, default=None, help="the store's directory")
    add("--kek-file", type=Path, default=None, help="the key-encryption key; made at the first start if missing")
    add("--listen", default=DEFAULT_LISTEN, metavar="HOST:PORT", help="where sidecars connect (%(default)s)")
    add("--name", action="append", default=[], help="further IP address or DNS name of this CA; repeatable")
    add("--admin-socket", type=Path, default=None, help="the admin API's Unix socket")
    add("--trust-domain", default=DEFAULT_TRUST_DOMAIN, help="%(default)s")
    add("--leaf-lifetime-s", type=float, default=DEFAULT_LEAF_LIFETIME_S, help="life of a leaf (%(default)s)")
    add("--rotation-minimum-wait-s", type=float, default=0.0, help="before a prepared authority signs (%(default)s)")
    add("--decisions-max-age-s", type=float, default=7 * 86_400.0, help="keep decisions that long (%(default)s)")
    add("--decisions-max-rows", type=int, default=2_000_000, help="keep at most that many decisions (%(default)s)")
    add("--max-streams", type=int, default=10_000, help="sidecars at once (%(default)s)")
    add("--log-level", choices=("debug", "info", "warning", "error"), default="info", help="%(default)s")
    add("--database", default="", metavar="URL", help=f"PostgreSQL; with a password in ${DATABASE_VARIABLE} instead")
    add("--kubernetes", action="store_true", help="work in a cluster, through KUBECONFIG or the pod's service account")
    add(
        "--sidecar-image",
        action="append",
        default=[],
        metavar="IMAGE[,IMAGE…]",
        help="sidecars that may join; pods get the first",
    )
    add(
        "--kek-secret",
        default="",
        metavar="NAME",
        help="keep the key-encryption key in this Secret of touchmark-system",
    )
    add("--admin-listen", default="", metavar="HOST:PORT", help="also serve the admin API on this loopback address")
    add("--webhook-listen", default="", metavar="HOST:PORT", help="where the API server asks about new pods")
    add(
        "--sidecar-pull-policy", choices=("Always", "IfNotPresent", "Never"), default="IfNotPresent", help="%(default)s"
    )
    add(
        "--trust-delay-s",
        type=float,
        default=DEFAULT_TRUST_DELAY_S,
        help="how late a kubelet may show pods a changed ConfigMap (%(default)s)",
    )
    add("--sidecar-ca", default=DEFAULT_CA_ADDRESS, metavar="HOST:PORT", help="this CA for sidecars (%(default)s)")
    options = parser.parse_args(arguments)
    host, port = parse_endpoint(options.listen)
    admin_host, admin_port = parse_endpoint(options.admin_listen) if options.admin_listen else ("", 0)
    webhook_host, webhook_port = parse_endpoint(options.webhook_listen) if options.webhook_listen else ("", 0)
    kubeconfig = os.environ.get("KUBECONFIG", "") if options.kubernetes else ""
    return Configuration(
        data_dir=options.data_dir or default_data_dir(),
        kek_file=options.kek_file or default_kek_file(),
        admin_socket=options.admin_socket or default_admin_socket(),
        host=host,
        port=port,
        names=tuple(options.name),
        trust_domain=options.trust_domain,
        leaf_lifetime_s=options.leaf_lifetime_s,
        rotation_minimum_wait_s=options.rotation_minimum_wait_s,
        decisions_max_age_s=options.decisions_max_age_s,
        decisions_max_rows=options.decisions_max_rows,
        max_streams=options.max_streams,
        log_level=options.log_level,
        database=_read_database(options.database),
        kubernetes=options.kubernetes,
        kubeconfig=Path(kubeconfig) if kubeconfig else None,
        # No image's name has a comma: a ConfigMap's one value can name several.
        sidecar_images=tuple(image.strip() for given in options.sidecar_image for image in given.split(",")),
        kek_secret=options.kek_secret,
        admin_host=admin_host,
        admin_port=admin_port,
        webhook_host=webhook_host,
        webhook_port=webhook_port,
        sidecar_pull_policy=options.sidecar_pull_policy,
        sidecar_ca=options.sidecar_ca,
        trust_delay_s=options.trust_delay_s,
    )


def _read_database(option: str) -> str:
    if not option:
        return os.environ.get(DATABASE_VARIABLE, "")
    userinfo = option.partition("://")[2].partition("/")[0].rpartition("@")[0]
    if ":" in userinfo:
        raise InputError(
            "--database with a password shows it to every user of the machine",
            hint=f"put the URL into the environment as {DATABASE_VARIABLE}, or the password as PGPASSWORD",
        )
    return option


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
