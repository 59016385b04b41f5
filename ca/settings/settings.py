"""The CA's settings: one table, and the configuration made of options and environment by it.

Belongs here: which settings there are, and reading them. Doesn't: limits and what fits together
(``configuration.py``). Reads the environment; opens nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from ca.settings.configuration import Configuration, SigningProcessMode, format_endpoint, parse_endpoint
from shared.model.errors import InputError
from shared.model.kubernetes.contract import CA_SERVICE, STREAM_PORT
from shared.runtime.paths import ADMIN_SOCKET_VARIABLE, default_admin_socket, default_data_dir, default_kek_file
from shared.runtime.settings import Setting, make_parser, read_environment, read_options

DATABASE_VARIABLE = "TOUCHMARK_DATABASE_URL"
NAMESPACE_VARIABLE = "TOUCHMARK_NAMESPACE"
WEBHOOK_TOKEN_VARIABLE = "TOUCHMARK_WEBHOOK_TOKEN"


def check_database(option: str) -> None:
    """Refuse a URL with a password among the options. Raises ``InputError``."""
    userinfo = option.partition("://")[2].partition("/")[0].rpartition("@")[0]
    if ":" in userinfo:
        raise InputError(
            "--database with a password shows it to every user of the machine",
            hint=f"put the URL into the environment as {DATABASE_VARIABLE}, or the password as PGPASSWORD",
        )


def _parse_optional_endpoint(text: str) -> tuple[str, int]:
    return parse_endpoint(text) if text else ("", 0)


def _parse_tokens(text: str) -> tuple[str, ...]:
    if not (tokens := tuple(text.split())):
        raise InputError("there is no token in it")  # Somebody wanted one: nobody may ask without.
    return tokens


_DEFAULTS: dict[str, Any] = {each.name: each.default for each in fields(Configuration)}

# Names are those of `Configuration`; `parse_arguments` splits the three addresses into host and port.
SETTINGS = (
    Setting(
        name="data_dir", options=("--data-dir",), metavar="FOLDER", parse=Path,
        default="/var/lib/touchmark as root", help="the store's directory",
    ),
    Setting(
        name="kek_file", options=("--kek-file",), metavar="FILE", parse=Path,
        default="/etc/touchmark/kek as root", help="the key-encryption key; made at the first start if missing",
    ),
    Setting(
        name="listen", options=("--listen",), metavar="HOST:PORT", parse=parse_endpoint,
        default=format_endpoint(_DEFAULTS["host"], _DEFAULTS["port"]), help="where sidecars connect",
    ),
    Setting(
        name="names", options=("--name",), metavar="NAME", repeatable=True,
        help="further IP address or DNS name of this CA",
    ),
    Setting(
        name="admin_socket", options=("--admin-socket",), environment=ADMIN_SOCKET_VARIABLE, metavar="FILE", parse=Path,
        default="/run/touchmark/admin.sock as root", help="the admin API's Unix socket",
    ),
    Setting(
        name="admin_readers", options=("--admin-readers",), metavar="GROUP", default="none",
        help="group that may read on the admin socket; changes take root or the CA's user",
    ),
    Setting(
        name="trust_domain", options=("--trust-domain",), metavar="NAME", default=_DEFAULTS["trust_domain"],
        help="the domain of all SPIFFE IDs that this CA issues",
    ),
    Setting(
        name="leaf_lifetime_s", options=("--leaf-lifetime-s",), metavar="SECONDS", parse=float,
        default=f"{_DEFAULTS['leaf_lifetime_s']:g}",
        help="lifetime of certificates, 300 to 86400; they are renewed at half of it",
    ),
    Setting(
        name="rotation_minimum_wait_s", options=("--rotation-minimum-wait-s",), metavar="SECONDS", parse=float,
        default=f"{_DEFAULTS['rotation_minimum_wait_s']:g}",
        help="least time between preparing and activating an authority",
    ),
    Setting(
        name="renewal_grace_s", options=("--renewal-grace-s",), metavar="SECONDS", parse=float,
        default=f"{_DEFAULTS['renewal_grace_s']:.0f}",
        help="how long after its last certificate's end a sidecar outside Kubernetes may come back by its renewal key;"
        " 0: never",
    ),
    Setting(
        name="decisions_max_age_s", options=("--decisions-max-age-s",), metavar="SECONDS", parse=float,
        default=f"{_DEFAULTS['decisions_max_age_s']:.0f}", help="delete decisions older than this",
    ),
    Setting(
        name="decisions_max_rows", options=("--decisions-max-rows",), metavar="NUMBER", parse=int,
        default=str(_DEFAULTS["decisions_max_rows"]), help="keep at most this many decisions",
    ),
    Setting(
        name="decisions_max_bytes", options=("--decisions-max-bytes",), metavar="BYTES", parse=int,
        default=str(_DEFAULTS["decisions_max_bytes"]),
        help="delete decisions beyond this size; with SQLite a tenth of the disk stays free besides",
    ),
    Setting(
        name="edges_max_age_s", options=("--edges-max-age-s",), metavar="SECONDS", parse=float,
        default=f"{_DEFAULTS['edges_max_age_s']:.0f}", help="delete edges (who talked to whom) older than this",
    ),
    Setting(
        name="edges_max_bytes", options=("--edges-max-bytes",), metavar="BYTES", parse=int,
        default=str(_DEFAULTS["edges_max_bytes"]),
        help="delete the oldest days of edges beyond this size; with SQLite a tenth of the disk stays free besides",
    ),
    Setting(
        name="max_streams", options=("--max-streams",), metavar="NUMBER", parse=int,
        default=str(_DEFAULTS["max_streams"]), help="sidecars connected at once",
    ),
    Setting(
        name="signing_process", options=("--signing-process",), choices=tuple(SigningProcessMode),
        parse=SigningProcessMode, default=_DEFAULTS["signing_process"],
        help="sign in a process of its own: `auto`, while there is much to sign and a second processor; `on`; `off`",
    ),
    Setting(
        name="lock_wait_s", options=("--lock-wait-s",), metavar="SECONDS", parse=float,
        default=f"{_DEFAULTS['lock_wait_s']:g}",
        help="how long a start waits for another CA to leave the data directory",
    ),
    Setting(
        name="log_level", options=("--log-level",), choices=("debug", "info", "warning", "error"),
        default=_DEFAULTS["log_level"], help="least level of log entries",
    ),
    Setting(
        name="database", options=("--database",), environment=DATABASE_VARIABLE, metavar="URL", default="SQLite",
        help=f"PostgreSQL database that replicas share; a URL with a password only in {DATABASE_VARIABLE}",
    ),
    Setting(
        name="kubernetes", options=("--kubernetes",), is_flag=True,
        help="work in a cluster, through KUBECONFIG or the pod's service account",
    ),
    Setting(
        name="namespace", options=("--namespace",), environment=NAMESPACE_VARIABLE, metavar="NAME",
        default=_DEFAULTS["namespace"], help="with `--kubernetes`: the CA's own namespace",
    ),
    Setting(
        name="kubeconfig", environment="KUBECONFIG", parse=Path, default="the pod's service account",
        help="with `--kubernetes`: how to reach the API server",
    ),
    Setting(
        name="sidecar_images", options=("--sidecar-image",), metavar="IMAGE[,IMAGE…]", repeatable=True,
        help="images of sidecars that may join; pods get the first",
    ),
    Setting(
        name="image_grace_s", options=("--image-grace-s",), metavar="SECONDS", parse=float,
        default=f"{_DEFAULTS['image_grace_s']:.0f}",
        help="how long pods stay whose sidecar's image was taken out of --sidecar-image; 0 for not at all",
    ),
    Setting(
        name="kek_secret", options=("--kek-secret",), metavar="NAME",
        help="keep the key-encryption key in this Secret of the CA's namespace",
    ),
    Setting(
        name="admin_listen", options=("--admin-listen",), metavar="HOST:PORT", parse=_parse_optional_endpoint,
        default="none",
        help="also serve the admin API on this loopback address, to the cluster's users by their rights",
    ),
    Setting(
        name="webhook_listen", options=("--webhook-listen",), metavar="HOST:PORT", parse=_parse_optional_endpoint,
        default="none", help="where the API server asks about new pods",
    ),
    Setting(
        name="webhook_tokens", environment=WEBHOOK_TOKEN_VARIABLE, default="none",
        parse=_parse_tokens,
        help="token that the API server has to show to the webhook; several, separated by spaces, while it is changed",
    ),
    Setting(
        name="sidecar_pull_policy", options=("--sidecar-pull-policy",), choices=("Always", "IfNotPresent", "Never"),
        default=_DEFAULTS["sidecar_pull_policy"], help="of injected containers",
    ),
    Setting(
        name="trust_delay_s", options=("--trust-delay-s",), metavar="SECONDS", parse=float,
        default=f"{_DEFAULTS['trust_delay_s']:g}",
        help="how late a kubelet may show pods a changed ConfigMap: a new root waits as long",
    ),
    Setting(
        name="sidecar_ca", options=("--sidecar-ca",), metavar="HOST:PORT",
        default=f"{CA_SERVICE}.NAMESPACE.svc:{STREAM_PORT}",
        help="this CA's address for injected sidecars",
    ),
    Setting(
        name="otlp_logs", options=("--otlp-logs",), metavar="URL", default="none",
        help="send decisions to this OpenTelemetry collector (OTLP over HTTPS, JSON)",
    ),
    Setting(
        name="otlp_traces", options=("--otlp-traces",), metavar="URL", default="none",
        help="send traces of issuances and admin acts to this OpenTelemetry collector (OTLP over HTTPS, JSON)",
    ),
    Setting(
        name="trace_every", options=("--trace-every",), metavar="NUMBER", parse=int,
        default=str(_DEFAULTS["trace_every"]),
        help="trace one of so many issuances and admin acts, 0: none but those whose caller traces them",
    ),
    Setting(
        name="otlp_headers", environment="OTEL_EXPORTER_OTLP_HEADERS", default="none",
        help="headers for the collector, such as `authorization=Bearer%20TOKEN`",
    ),
    Setting(
        name="syslog", options=("--syslog",), metavar="HOST:PORT", default="none",
        help="send decisions to this syslog server (CEF over TLS, RFC 5425)",
    ),
    Setting(
        name="forward_roots", options=("--forward-roots",), metavar="FILE", parse=Path, default="the system's",
        help="root certificates that vouch for the collector and the syslog server",
    ),
    Setting(
        name="forward_allows", options=("--forward-allows",), metavar="NUMBER", parse=int,
        default=str(_DEFAULTS["forward_allows"]),
        help="send one of so many allowed connections, 0: none; what is refused or would be is always sent",
    ),
    Setting(
        name="edge_metrics", options=("--edge-metrics",), is_flag=True,
        help="count connections by workload in `/metrics`, where whoever reaches the port reads who talks to whom",
    ),
)  # fmt: skip


def parse_arguments(arguments: Sequence[str]) -> Configuration:
    """Read the command line and the environment; options win.

    Raises:
        InputError: an option is unknown or its value can't be used. (IdentityError: the trust domain.)
        SystemExit: ``--help`` was answered.
    """
    parser = make_parser(SETTINGS, prog="python -m ca", description="Touchmark's certificate authority.")
    options = read_options(SETTINGS, parser, arguments)
    if not options.get("database"):
        options.pop("database", None)  # An empty option counts as none.
    check_database(options.get("database", ""))
    values = read_environment(SETTINGS, os.environ) | options
    if not values.get("kubernetes"):
        values.pop("kubeconfig", None)
    if "namespace" in values:
        values.setdefault("sidecar_ca", f"{CA_SERVICE}.{values['namespace']}.svc:{STREAM_PORT}")
    for name, prefix in (("listen", ""), ("admin_listen", "admin_"), ("webhook_listen", "webhook_")):
        if name in values:
            values[f"{prefix}host"], values[f"{prefix}port"] = values.pop(name)
    if "sidecar_images" in values:
        # No image's name has a comma: a ConfigMap's one value can name several.
        values["sidecar_images"] = tuple(
            image.strip() for given in values["sidecar_images"] for image in given.split(",")
        )
    defaults = {"data_dir": default_data_dir, "kek_file": default_kek_file, "admin_socket": default_admin_socket}
    values |= {name: find() for name, find in defaults.items() if name not in values}
    return Configuration(**values)
