"""The sidecar's settings: one table, and the configuration made of options, environment and a YAML file by it.

Belongs here: which settings there are, and reading them, each fault with its place. Doesn't: what fits together
(``configuration.py``); acting on it (``sidecar/runtime/``). Reads the files that it is told to read, nothing else.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from shared.model.errors import IdentityError, InputError
from shared.model.formats.line import LineFormat
from shared.model.identity.identity import check_trust_domain
from shared.model.kubernetes.contract import MAX_WORKERS
from shared.runtime.settings import Setting, make_parser, read_environment, read_options
from sidecar.events import LEVELS
from sidecar.native.engine import Wanted
from sidecar.settings.configuration import (
    MAX_NAMESERVERS,
    TOKEN_VARIABLE,
    CaptureKind,
    Configuration,
    Hold,
    InboundListener,
    OutboundListener,
    PodOptions,
    RedirectOptions,
)
from sidecar.settings.parsing import (
    parse_address,
    parse_endpoint,
    parse_host_port,
    parse_instance,
    parse_nameserver,
    parse_natural,
    parse_port,
    read_small_file,
)
from sidecar.settings.pod import read_pod, read_probes
from sidecar.settings.trace import is_tracing_frames
from sidecar.sockets.address import Endpoint

if TYPE_CHECKING:
    from shared.model.policy.document_nodes import Value

MAX_ADDRESSES = 64
MAX_LISTENERS = 256
MAX_CONNECTIONS = 100_000
MAX_DRAIN_S = 86_400
_MAX_LIMIT_S = 366 * 86_400
MIN_WATCHDOG_S = 5
_MAX_TOKEN_BYTES = 8192
_MAX_FILE_BYTES = 1024 * 1024
_T = TypeVar("_T")


def read_token_file(path: Path) -> str:
    """Read a join token from its file.

    Raises:
        InputError: the file can't be read or is too large.
    """
    text = read_small_file(path, "join token", _MAX_TOKEN_BYTES).strip()
    if not text:
        raise InputError(f"the join token's file is empty: {path}")
    return text


def parse_ports(text: str) -> tuple[int, ...]:
    """Read ports with commas between them.

    Raises:
        InputError: one isn't a port, or there are more than ``MAX_LISTENERS``.
    """
    ports = tuple(dict.fromkeys(parse_port(word.strip()) for word in text.split(",")))
    if len(ports) > MAX_LISTENERS:
        raise InputError(f"{len(ports)} ports; at most {MAX_LISTENERS} are allowed")
    return ports


def _parse_drain(text: str) -> float:
    return float(parse_natural(text, least=0, most=MAX_DRAIN_S))


def _parse_limit(text: str) -> float:
    return float(parse_natural(text, least=0, most=_MAX_LIMIT_S))


def _parse_watchdog(text: str) -> float:
    seconds = parse_natural(text, least=0, most=MAX_DRAIN_S)
    if 0 < seconds < MIN_WATCHDOG_S:
        raise InputError(f"{seconds} s are too few for a busy machine", hint=f"0, or at least {MIN_WATCHDOG_S}")
    return float(seconds)


def _parse_hold(text: str) -> Hold:
    word = {"true": Hold.ALWAYS.value, "false": Hold.NEVER.value}.get(text, text)
    if word not in list(Hold):
        raise InputError(f"not a time to hold connections: {text[:40]!r}", hint=f"one of {', '.join(Hold)}")
    return Hold(word)


def _parse_pair(text: str, option: str) -> tuple[Endpoint, Endpoint]:
    listen, equals, other = text.partition("=")
    if not equals:
        raise InputError(f"{option} {text[:80]!r} isn't a pair of addresses", hint="127.0.0.1:5432=198.18.0.2:5432")
    return parse_endpoint(listen), parse_endpoint(other)


def _parse_outbound(text: str) -> OutboundListener:
    listen, destination = _parse_pair(text, "--outbound")
    return OutboundListener(listen=listen, destination=destination)


def _parse_inbound(text: str) -> InboundListener:
    listen, application = _parse_pair(text, "--inbound")
    return InboundListener(listen=listen, application=application)


def _read_scalar(value: Value, parse: Callable[[str], _T]) -> _T:
    return value.build(lambda: parse(value.scalar()))


def _read_text(value: Value) -> str:
    return value.text()


def _read_flag(value: Value) -> bool:
    return value.flag()


def _read_path(value: Value) -> Path:
    return Path(value.text())


def _read_addresses(value: Value) -> tuple[str, ...]:
    return tuple(_read_scalar(each, parse_address) for each in value.items(max_items=MAX_ADDRESSES))


def _read_ports(value: Value) -> tuple[int, ...]:
    return tuple(dict.fromkeys(_read_scalar(each, parse_port) for each in value.items(max_items=MAX_LISTENERS)))


def _read_nameservers(value: Value) -> tuple[Endpoint, ...]:
    return tuple(_read_scalar(each, parse_nameserver) for each in value.items(max_items=MAX_NAMESERVERS))


def _read_pairs(value: Value, other: str) -> list[tuple[Endpoint, Endpoint]]:
    entries = [each.fields(required=("listen", other)) for each in value.items(max_items=MAX_LISTENERS)]
    return [
        (_read_scalar(parts["listen"], parse_endpoint), _read_scalar(parts[other], parse_endpoint)) for parts in entries
    ]


def _read_outbound(value: Value) -> tuple[OutboundListener, ...]:
    pairs = _read_pairs(value, "destination")
    return tuple(OutboundListener(listen=listen, destination=other) for listen, other in pairs)


def _read_inbound(value: Value) -> tuple[InboundListener, ...]:
    pairs = _read_pairs(value, "application")
    return tuple(InboundListener(listen=listen, application=other) for listen, other in pairs)


_DEFAULTS = Configuration()

# Names are those of `Configuration`; with `redirect.`, of `RedirectOptions`. `_make_pod` reads the pod's three.
SETTINGS = (
    Setting(
        name="config", options=("--config",), metavar="FILE", parse=Path,
        help="YAML file; options and environment win over it",
    ),
    Setting(
        name="ca", options=("--ca",), yaml="ca", metavar="HOST:PORT", parse=parse_host_port,
        default="the join token's", help="the CA",
    ),
    Setting(
        name="token", yaml="token", environment=TOKEN_VARIABLE, read=_read_text, help="the join token",
    ),
    Setting(
        name="token", options=("--token-file",), yaml="tokenFile", metavar="FILE",
        parse=lambda path: read_token_file(Path(path)), help="file with the join token",
    ),
    Setting(
        name="state_directory", options=("--state-directory",), yaml="stateDirectory", metavar="DIRECTORY", parse=Path,
        read=_read_path, default="memory",
        help="outside Kubernetes: keep the renewal key here, by which the sidecar comes back without a new join token",
    ),
    Setting(
        name="tpm", options=("--tpm",), yaml="tpm", metavar="DEVICE", parse=Path, read=_read_path, default="none",
        help="with a state directory: this TPM 2.0 (/dev/tpmrm0) makes the renewal key and signs by it, so that the"
        " file is worth nothing on another machine",
    ),
    Setting(
        name="service_account_token", options=("--service-account-token",), metavar="FILE", parse=Path,
        help="in Kubernetes: the pod's token for the CA",
    ),
    Setting(
        name="trust_file", options=("--trust-file",), metavar="FILE", parse=Path,
        help="in Kubernetes: the CA's roots, PEM",
    ),
    Setting(
        name="trust_domain", options=("--trust-domain",), metavar="NAME", help="in Kubernetes: the CA's trust domain",
    ),
    Setting(
        name="health_port", options=("--health-port",), yaml="health.port", metavar="PORT", parse=parse_port,
        default="none", help="answer the kubelet's probes on this port",
    ),
    Setting(
        name="serves_metrics", options=("--metrics",), yaml="health.metrics", choices=("on", "off"),
        parse=lambda text: text == "on", default="on",
        help="answer /metrics on the health port, to anybody who reaches it; it names nobody",
    ),
    Setting(
        name="has_admin_socket", options=("--admin-socket",), yaml="admin.socket", choices=("on", "off"),
        parse=lambda text: text == "on", default="on",
        help="answer `touchmark sidecar` on an abstract Unix socket, for root and this user",
    ),
    Setting(
        name="watchdog_s", options=("--watchdog-seconds",), yaml="limits.watchdogSeconds", metavar="SECONDS",
        parse=_parse_watchdog, default=f"{_DEFAULTS.watchdog_s:g}",
        help="end the sidecar when its event loop stands still for so long; 0: never",
    ),
    Setting(
        name="engine", options=("--engine",), yaml="engine", choices=tuple(each.value for each in Wanted), parse=Wanted,
        default=_DEFAULTS.engine.value,
        help="what moves bytes and looks at processes: what was compiled if it is there, that or no start, or Python",
    ),
    Setting(
        name="workers", options=("--workers",), yaml="workers", metavar="NUMBER",
        parse=partial(parse_natural, least=1, most=MAX_WORKERS), default=str(_DEFAULTS.workers),
        help="threads that move the bytes of established connections, where what was compiled is there: "
        "as many cores as they may use beside the event loop's",
    ),
    Setting(
        name="instance", options=("--instance",), yaml="instance", metavar="NAME", parse=parse_instance,
        default="host name and a random part", help="names this sidecar in decisions",
    ),
    Setting(
        name="capture", options=("--capture",), yaml="capture", choices=tuple(each.value for each in CaptureKind),
        parse=CaptureKind, default=_DEFAULTS.capture.value, help="how connections reach the sidecar",
    ),
    Setting(
        name="tunnel_addresses", options=("--tunnel-address",), yaml="tunnel.addresses", metavar="ADDRESS",
        parse=parse_address, read=_read_addresses, repeatable=True,
        help="where peers reach this workload; the join token must name it",
    ),
    Setting(
        name="tunnel_port", options=("--tunnel-port",), yaml="tunnel.port", metavar="PORT", parse=parse_port,
        default=str(_DEFAULTS.tunnel_port), help="port at which peers reach this workload",
    ),
    Setting(
        name="redirect.outbound_port", yaml="redirect.outboundPort", parse=parse_port,
        default=str(_DEFAULTS.redirect.outbound_port),
        help="outbound connections are redirected here; no program can be served on it or the 31 ports below it",
    ),
    Setting(
        name="redirect.inbound_port", yaml="redirect.inboundPort", parse=parse_port,
        default=str(_DEFAULTS.redirect.inbound_port), help="inbound connections are redirected here",
    ),
    Setting(
        name="redirect.uid", options=("--redirect-uid",), yaml="redirect.uid", metavar="UID",
        parse=partial(parse_natural, least=1, most=2**32 - 2), default=str(_DEFAULTS.redirect.uid),
        help="user to become; its connections aren't captured",
    ),
    Setting(
        name="redirect.mark", options=("--redirect-mark",), yaml="redirect.mark", metavar="MARK",
        parse=partial(parse_natural, least=1, most=2**32 - 1), takes_null=True,
        help="exempt this SO_MARK instead of the user",
    ),
    Setting(
        name="redirect.hold", options=("--hold-connects",), yaml="redirect.holdConnects", metavar="WHEN",
        bare=Hold.ALWAYS.value, parse=_parse_hold, default=_DEFAULTS.redirect.hold.value,
        help="`auto`, `always` or `never` let a program's `connect()` wait until the program was looked at: `auto` "
        "towards ports whose programs were gone too early for that, for a day; keeps NET_ADMIN where it isn't `never`",
    ),
    Setting(
        name="redirect.hold_ports", options=("--hold-port",), yaml="redirect.holdPorts", metavar="PORT",
        parse=parse_port, read=_read_ports, repeatable=True,
        help="`--hold-connects` towards these destination ports only",
    ),
    Setting(
        name="redirect.is_installed", options=("--redirect-installed",), is_flag=True,
        help="the nftables table is installed and this process has its user: install nothing",
    ),
    Setting(
        name="redirect.exclude_ports", options=("--exclude-port",), yaml="redirect.excludePorts", metavar="PORT",
        parse=parse_port, read=_read_ports, repeatable=True, help="never captured, in either direction",
    ),
    Setting(
        name="mtls_ports", options=("--mtls-ports",), yaml="mtls.ports", metavar="PORT,PORT", parse=parse_ports,
        read=_read_ports, help="serve clients outside the mesh by plain mTLS only, on these ports",
    ),
    Setting(
        name="mtls_destination_ports", options=("--mtls-destination-ports",), yaml="mtls.destinationPorts",
        metavar="PORT,PORT", parse=parse_ports, read=_read_ports,
        help="speak plain mTLS to these ports outside the mesh",
    ),
    Setting(
        name="nameservers", options=("--nameserver",), yaml="dns.nameservers", metavar="ADDRESS[:PORT]",
        parse=parse_nameserver, read=_read_nameservers, repeatable=True, default="those of /etc/resolv.conf",
        help="whom the sidecar asks for the host names of egress rules; at most three",
    ),
    Setting(
        name="outbound", options=("--outbound",), yaml="outbound", metavar="LISTEN=DESTINATION",
        parse=_parse_outbound, read=_read_outbound, repeatable=True,
        help="listen on a local address for connections to one destination",
    ),
    Setting(
        name="takes_remote_clients", options=("--takes-remote-clients",), yaml="takesRemoteClients", is_flag=True,
        read=_read_flag, help="let `outbound` listen beyond loopback; clients from outside the pod get no identity",
    ),
    Setting(
        name="inbound", options=("--inbound",), yaml="inbound", metavar="LISTEN=APPLICATION",
        parse=_parse_inbound, read=_read_inbound, repeatable=True,
        help="listen for connections to the application at an address",
    ),
    Setting(
        name="max_executable_bytes", options=("--max-executable-bytes",), yaml="attestation.maxExecutableBytes",
        metavar="BYTES", parse=partial(parse_natural, least=1, most=2**40),
        default=str(_DEFAULTS.max_executable_bytes), help="hash no larger program",
    ),
    Setting(
        name="max_connections", options=("--max-connections",), yaml="limits.maxConnections", metavar="NUMBER",
        parse=partial(parse_natural, least=1, most=MAX_CONNECTIONS), default="4096, less with a low `ulimit -n`",
        help="connections of the pod's own at once; as many of peers, of strangers, and of unfinished handshakes",
    ),
    Setting(
        name="drain_s", options=("--drain-seconds", "--drain-s"), yaml="limits.drainSeconds", metavar="SECONDS",
        parse=_parse_drain, default=f"{_DEFAULTS.drain_s:g}", help="for live connections, after SIGTERM",
    ),
    Setting(
        name="idle_timeout_s", options=("--idle-timeout-seconds",), yaml="limits.idleTimeoutSeconds", metavar="SECONDS",
        parse=_parse_limit, default="none", help="end a connection on which no byte has passed for so long",
    ),
    Setting(
        name="max_duration_s", options=("--max-duration-seconds",), yaml="limits.maxDurationSeconds", metavar="SECONDS",
        parse=_parse_limit, default="none", help="end a connection that has lived for so long",
    ),
    Setting(
        name="log_file", options=("--log-file",), yaml="log.file", metavar="FILE", parse=Path, read=_read_path,
        takes_null=True, default="standard output", help="decision records",
    ),
    Setting(
        name="log_format", options=("--log-format",), yaml="log.format",
        choices=tuple(each.value for each in LineFormat), parse=LineFormat, default=_DEFAULTS.log_format.value,
        help="lines of decision records: our own JSON, OCSF's Network Activity, or CEF",
    ),
    Setting(
        name="log_level", options=("--log-level",), choices=LEVELS, default=_DEFAULTS.log_level,
        help="least level of the sidecar's own events",
    ),
)  # fmt: skip


def read_configuration(text: str, source: str) -> Configuration:
    """Read the YAML file's text. What it leaves out keeps its default; ``check`` comes after the options.

    Raises:
        DocumentError: it isn't such a document, with the line and path of the fault.
    """
    return _make_configuration(_read_file(text, source))


def parse_arguments(arguments: Sequence[str], environment: Mapping[str, str]) -> Configuration:
    """Read options, the file that they name, and the token; options win over the environment, that over the file.

    Raises:
        InputError: an option is unknown or wrong, or the parts don't fit together.
        DocumentError: the file is at fault.
    """
    parser = make_parser(
        SETTINGS,
        prog="python -m sidecar",
        description="Touchmark's data plane: captures, attests, identifies, decides, carries and records connections.",
        epilog=f"The join token comes from a file or from the environment ({TOKEN_VARIABLE}), never from an option.",
    )
    options = read_options(SETTINGS, parser, arguments)
    values: dict[str, Any] = {}
    if (config := options.pop("config", None)) is not None:
        values |= _read_file(read_small_file(config, "configuration", _MAX_FILE_BYTES), str(config))
    values |= read_environment(SETTINGS, environment)
    values |= _read_pod(options, environment) | options
    values["traces_frames"] = is_tracing_frames(environment)
    values["is_named"] = bool(values.get("instance"))
    if not values["is_named"]:
        values["instance"] = f"{_host_name()}-{secrets.token_hex(3)}"
    return _make_configuration(values).check()


def _read_file(text: str, source: str) -> dict[str, Any]:
    from shared.model.policy.document_nodes import read_nodes  # PyYAML costs memory: only where there is a file.

    nodes = read_nodes(text, source)
    if not nodes:
        return {}
    if len(nodes) > 1:
        raise nodes[1].place.fault("one document is expected, another one starts here")
    fields = nodes[0].entries()
    if "token" in fields and "tokenFile" in fields:
        raise fields["token"].place.fault("`token` and `tokenFile` exclude one another")
    return _read_fields(nodes[0], "")


def _read_fields(value: Value, prefix: str) -> dict[str, Any]:
    """Read the fields below one path; a field that no setting is at or below is an error."""
    rows = {setting.yaml: setting for setting in SETTINGS if setting.yaml}
    known = dict.fromkeys(
        path.removeprefix(prefix).partition(".")[0] for path in rows if path.startswith(prefix)
    )  # In the table's order.
    values: dict[str, Any] = {}
    for name, inner in value.fields(optional=tuple(known)).items():
        setting = rows.get(prefix + name)
        if setting is None:
            values |= _read_fields(inner, f"{prefix}{name}.")
        elif not (setting.takes_null and inner.is_null()):
            values[setting.name] = _read_value(setting, inner)
    return values


def _read_value(setting: Setting, value: Value) -> Any:
    if setting.read is not None:
        return setting.read(value)
    if setting.choices is not None:
        return setting.parse(value.choice(setting.choices))
    return _read_scalar(value, setting.parse)


def _read_pod(options: dict[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """Take the pod's options out of ``options``; return what they and the downward API say."""
    names = ("service_account_token", "trust_file", "trust_domain")
    token_file, trust_file, trust_domain = (options.pop(name, None) for name in names)
    if token_file is None:
        for value, name in ((trust_file, "--trust-file"), (trust_domain, "--trust-domain")):
            if value is not None:
                raise InputError(f"{name} belongs to --service-account-token")
        return {}
    if trust_file is None or trust_domain is None:
        raise InputError("--service-account-token needs --trust-file and --trust-domain")
    try:
        check_trust_domain(trust_domain)
    except IdentityError as error:
        raise InputError(error.message) from error
    pod = read_pod(environment)
    return {
        "pod": PodOptions(token_file=token_file, trust_file=trust_file, trust_domain=trust_domain, pod=pod),
        "instance": pod.instance,
        "tunnel_addresses": pod.addresses,
        "probes": read_probes(environment),
    }


def _make_configuration(values: Mapping[str, Any]) -> Configuration:
    inner = "redirect."
    redirect = {name.removeprefix(inner): value for name, value in values.items() if name.startswith(inner)}
    if "exclude_ports" in redirect:
        redirect["exclude_ports"] = tuple(dict.fromkeys(redirect["exclude_ports"]))
    whole = {name: value for name, value in values.items() if not name.startswith(inner)}
    if "tunnel_addresses" in whole:
        whole["tunnel_addresses"] = tuple(dict.fromkeys(whole["tunnel_addresses"]))
    return Configuration(**whole, redirect=RedirectOptions(**redirect))


def _host_name() -> str:
    name = re.sub(r"[^A-Za-z0-9._-]", "-", os.uname().nodename)[:48].lstrip("._-")
    return name or "sidecar"
