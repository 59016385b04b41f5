"""The sidecar's configuration: a YAML file, options over it, and the join token from file or environment.

Belongs here: shape, defaults and checks, each fault with its place. Doesn't: acting on it (``sidecar/runtime/``).
Reads the files that it is told to read, nothing else.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

from shared.model.errors import IdentityError, InputError
from shared.model.identity.identity import check_trust_domain
from shared.model.kubernetes.contract import ProbeTarget
from sidecar.events import LEVELS
from sidecar.settings.parsing import (
    parse_address,
    parse_endpoint,
    parse_host_port,
    parse_instance,
    parse_natural,
    parse_port,
    read_small_file,
)
from sidecar.settings.pod import Pod, read_pod, read_probes
from sidecar.settings.trace import is_tracing_frames
from sidecar.sockets.address import Endpoint, format_endpoint

if TYPE_CHECKING:
    from shared.model.policy.document_nodes import Value

TOKEN_VARIABLE = "TOUCHMARK_JOIN_TOKEN"
MAX_ADDRESSES = 64
MAX_LISTENERS = 256
MAX_CONNECTIONS = 100_000
MAX_DRAIN_S = 86_400
_MAX_TOKEN_BYTES = 8192
_MAX_FILE_BYTES = 1024 * 1024
_T = TypeVar("_T")


class CaptureKind(StrEnum):
    """How connections come to the sidecar."""

    REDIRECT = "redirect"
    LISTENERS = "listeners"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundListener:
    """A local address whose connections go to one fixed destination."""

    listen: Endpoint
    destination: Endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class InboundListener:
    """An address at which outsiders arrive in plaintext, and where the application behind it listens."""

    listen: Endpoint
    application: Endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class RedirectOptions:
    """Capture by nftables.

    Attributes:
        uid: the user that the sidecar becomes; its connections aren't captured.
        mark: where there is only one user (``unshare -Urn``): connections with this SO_MARK aren't captured instead.
        is_installed: somebody else has installed the table (``capture.install``), and this process has its user.
    """

    outbound_port: int = 15001
    inbound_port: int = 15006
    uid: int = 1337
    exclude_ports: tuple[int, ...] = ()
    mark: int | None = None
    is_installed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PodOptions:
    """Joining by the pod's token.

    Attributes:
        token_file: the projected service account token.
        trust_file: PEM, the CA's roots.
        trust_domain: the CA's.
        pod: what the downward API says.
    """

    token_file: Path
    trust_file: Path
    trust_domain: str
    pod: Pod


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """What a sidecar is told.

    Attributes:
        ca: ``host:port`` of the CA; None takes the join token's.
        token: a join token's text; None when there is none.
        pod: how to join in Kubernetes instead; None elsewhere.
        instance: names this sidecar in decisions.
        max_connections: application connections alive at once, both ways; and as many tunnels of peers. None is the
            default, less where the limit on open files is low.
        drain_s: how long live connections may finish after SIGTERM.
        log_file: where decision records go; None is standard output.
        health_port: of the server for the kubelet's probes; None for none.
        probes: what the kubelet asks there in the application's place.
        log_level: the least level of the sidecar's own events.
        traces_frames: an event is written for each frame of a tunnel.
        mtls_ports: ports at which outsiders are served by plain mTLS only; with explicit listeners, of their `listen`.
        mtls_destination_ports: ports towards which plain mTLS is spoken outside the mesh; with explicit listeners, of
            their `destination`.

    Raises:
        InputError: the parts contradict each other.
    """

    ca: tuple[str, int] | None = None
    token: str | None = field(default=None, repr=False)
    instance: str = ""
    capture: CaptureKind = CaptureKind.LISTENERS
    tunnel_addresses: tuple[str, ...] = ()
    tunnel_port: int = 15008
    redirect: RedirectOptions = field(default_factory=RedirectOptions)
    outbound: tuple[OutboundListener, ...] = ()
    inbound: tuple[InboundListener, ...] = ()
    max_executable_bytes: int = 1024**3
    max_connections: int | None = None
    drain_s: float = 20.0
    log_file: Path | None = None
    pod: PodOptions | None = None
    health_port: int | None = None
    probes: tuple[ProbeTarget, ...] = ()
    log_level: str = "info"
    traces_frames: bool = False
    mtls_ports: tuple[int, ...] = ()
    mtls_destination_ports: tuple[int, ...] = ()

    def check(self) -> Configuration:
        """Return the configuration unchanged when its parts fit together.

        Raises:
            InputError: they don't.
        """
        if self.pod is not None:
            if self.token is not None:
                raise InputError("a join token and --service-account-token exclude one another")
            if self.ca is None:
                raise InputError("--service-account-token needs --ca")
        elif self.token is None:
            raise InputError(
                "no join token is given",
                hint=f"make one with `touchmark ca join-token`; give it by --token-file or in {TOKEN_VARIABLE}",
            )
        # A listeners-only sidecar without inbound programs only dials: no peer needs to reach it.
        if not self.tunnel_addresses and (self.inbound or self.capture is CaptureKind.REDIRECT):
            raise InputError(
                "no tunnel address is given", hint="tunnel.addresses: the addresses at which peers reach this workload"
            )
        if self.capture is CaptureKind.REDIRECT:
            if self.outbound or self.inbound:
                raise InputError("`outbound` and `inbound` listeners belong to `capture: listeners`")
            ports = [self.redirect.outbound_port, self.redirect.inbound_port, self.tunnel_port]
            ports += [] if self.health_port is None else [self.health_port]
            if len(set(ports)) != len(ports):
                raise InputError("outbound, inbound, tunnel and health ports must differ")
            if self.redirect.is_installed and self.redirect.mark is not None:
                raise InputError("--redirect-installed goes by the user: it takes no mark")
        elif self.redirect.is_installed:
            raise InputError("--redirect-installed belongs to `capture: redirect`")
        elif not self.outbound and not self.inbound:
            raise InputError("capture by listeners needs at least one of `outbound` and `inbound`")
        self._check_mtls()
        listens = [each.listen for each in self.outbound] + [each.listen for each in self.inbound]
        for endpoint in listens:
            if listens.count(endpoint) > 1:
                raise InputError(f"two listeners have the address {format_endpoint(endpoint)}")
            if endpoint[1] == self.tunnel_port and endpoint[0] in self.tunnel_addresses:
                raise InputError(f"{format_endpoint(endpoint)} is the tunnel's own address")
        return self

    def _check_mtls(self) -> None:
        """Check that every mTLS port can be met: one that can't would be served plainly, unnoticed."""
        if self.capture is CaptureKind.REDIRECT:
            redirect = self.redirect
            own = {redirect.outbound_port, redirect.inbound_port, self.tunnel_port, self.health_port}
            for port in (*self.mtls_ports, *self.mtls_destination_ports):
                if port in redirect.exclude_ports:
                    raise InputError(f"port {port} can't be mTLS and excluded from capture")
                if port in own:
                    raise InputError(f"port {port} is the sidecar's own and can't be mTLS")
            return
        for ports, there, what in (
            (self.mtls_ports, {each.listen[1] for each in self.inbound}, "inbound listener listens on it"),
            (
                self.mtls_destination_ports,
                {each.destination[1] for each in self.outbound},
                "outbound listener leads to it",
            ),
        ):
            if missing := sorted(set(ports) - there):
                raise InputError(f"port {missing[0]} can't be mTLS: no {what}")


def parse_max_connections(text: str) -> int:
    """Read how many connections may live at once.

    Raises:
        InputError: it isn't a number from 1 to ``MAX_CONNECTIONS``.
    """
    return parse_natural(text, least=1, most=MAX_CONNECTIONS)


def parse_ports(text: str) -> tuple[int, ...]:
    """Read ports with commas between them.

    Raises:
        InputError: one isn't a port, or there are more than ``MAX_LISTENERS``.
    """
    ports = tuple(dict.fromkeys(parse_port(word.strip()) for word in text.split(",")))
    if len(ports) > MAX_LISTENERS:
        raise InputError(f"{len(ports)} ports; at most {MAX_LISTENERS} are allowed")
    return ports


def parse_drain(text: str) -> float:
    """Read for how many seconds live connections may finish.

    Raises:
        InputError: it isn't a whole number from 0 to ``MAX_DRAIN_S``.
    """
    return float(parse_natural(text, least=0, most=MAX_DRAIN_S))


def read_configuration(text: str, source: str) -> Configuration:
    """Read the YAML file's text. What it leaves out keeps its default; ``check`` comes after the options.

    Raises:
        DocumentError: it isn't such a document, with the line and path of the fault.
    """
    from shared.model.policy.document_nodes import read_nodes  # PyYAML costs memory: only where there is a file.

    nodes = read_nodes(text, source)
    if not nodes:
        return Configuration()
    if len(nodes) > 1:
        raise nodes[1].place.fault("one document is expected, another one starts here")
    fields = nodes[0].fields(
        optional=(
            "ca", "token", "tokenFile", "instance", "capture", "tunnel", "redirect", "outbound", "inbound",
            "attestation", "limits", "log", "mtls",
        )
    )  # fmt: skip
    configuration = Configuration()
    if (value := fields.get("ca")) is not None:
        configuration = replace(configuration, ca=_read(value, parse_host_port))
    if (value := fields.get("token")) is not None:
        if "tokenFile" in fields:
            raise value.place.fault("`token` and `tokenFile` exclude one another")
        configuration = replace(configuration, token=value.text())
    if (value := fields.get("tokenFile")) is not None:
        configuration = replace(configuration, token=_read(value, lambda path: read_token_file(Path(path))))
    if (value := fields.get("instance")) is not None:
        configuration = replace(configuration, instance=_read(value, parse_instance))
    if (value := fields.get("capture")) is not None:
        configuration = replace(configuration, capture=CaptureKind(value.choice([each.value for each in CaptureKind])))
    if (value := fields.get("tunnel")) is not None:
        configuration = _read_tunnel(configuration, value)
    if (value := fields.get("redirect")) is not None:
        configuration = replace(configuration, redirect=_read_redirect(value))
    if (value := fields.get("outbound")) is not None:
        outbound = []
        for entry in value.items(max_items=MAX_LISTENERS):
            parts = entry.fields(required=("listen", "destination"))
            listen, destination = _read(parts["listen"], parse_endpoint), _read(parts["destination"], parse_endpoint)
            outbound.append(OutboundListener(listen=listen, destination=destination))
        configuration = replace(configuration, outbound=tuple(outbound))
    if (value := fields.get("inbound")) is not None:
        inbound = []
        for entry in value.items(max_items=MAX_LISTENERS):
            parts = entry.fields(required=("listen", "application"))
            listen, application = _read(parts["listen"], parse_endpoint), _read(parts["application"], parse_endpoint)
            inbound.append(InboundListener(listen=listen, application=application))
        configuration = replace(configuration, inbound=tuple(inbound))
    if (value := fields.get("mtls")) is not None:
        parts = value.fields(optional=("ports", "destinationPorts"))
        configuration = replace(
            configuration,
            mtls_ports=_read_ports(parts.get("ports")),
            mtls_destination_ports=_read_ports(parts.get("destinationPorts")),
        )
    if (value := fields.get("attestation")) is not None:
        parts = value.fields(optional=("maxExecutableBytes",))
        if (limit := parts.get("maxExecutableBytes")) is not None:
            configuration = replace(
                configuration,
                max_executable_bytes=_read(limit, lambda text: parse_natural(text, least=1, most=2**40)),
            )
    if (value := fields.get("limits")) is not None:
        configuration = _read_limits(configuration, value)
    if (value := fields.get("log")) is not None:
        parts = value.fields(optional=("file",))
        if (file := parts.get("file")) is not None and not file.is_null():
            configuration = replace(configuration, log_file=Path(file.text()))
    return configuration


def read_token_file(path: Path) -> str:
    """Read a join token from its file.

    Raises:
        InputError: the file can't be read or is too large.
    """
    text = read_small_file(path, "join token", _MAX_TOKEN_BYTES).strip()
    if not text:
        raise InputError(f"the join token's file is empty: {path}")
    return text


def parse_arguments(arguments: Sequence[str], environment: Mapping[str, str]) -> Configuration:
    """Read options, the file that they name, and the token; options win over the file.

    Raises:
        InputError: an option is unknown or wrong, or the parts don't fit together.
        DocumentError: the file is at fault.
    """
    parser = _make_parser()
    options = parser.parse_args(list(arguments))
    configuration = Configuration()
    if options.config is not None:
        text = read_small_file(options.config, "configuration", _MAX_FILE_BYTES)
        configuration = read_configuration(text, str(options.config))
    if options.ca is not None:
        configuration = replace(configuration, ca=parse_host_port(options.ca))
    if options.token_file is not None:
        configuration = replace(configuration, token=read_token_file(options.token_file))
    elif environment.get(TOKEN_VARIABLE):
        configuration = replace(configuration, token=environment[TOKEN_VARIABLE])
    if (pod := _read_pod_options(options, environment)) is not None:
        # What the downward API says comes first, so that the options below win over it.
        configuration = replace(
            configuration, pod=pod, instance=pod.pod.instance, tunnel_addresses=pod.pod.addresses,
            probes=read_probes(environment),
        )  # fmt: skip
    if options.health_port is not None:
        configuration = replace(configuration, health_port=parse_port(options.health_port))
    if options.redirect_installed:
        configuration = replace(configuration, redirect=replace(configuration.redirect, is_installed=True))
    if options.instance is not None:
        configuration = replace(configuration, instance=parse_instance(options.instance))
    if options.capture is not None:
        configuration = replace(configuration, capture=CaptureKind(options.capture))
    if options.tunnel_address:
        addresses = tuple(dict.fromkeys(parse_address(each) for each in options.tunnel_address))
        configuration = replace(configuration, tunnel_addresses=addresses)
    if options.tunnel_port is not None:
        configuration = replace(configuration, tunnel_port=parse_port(options.tunnel_port))
    if options.redirect_uid is not None:
        uid = parse_natural(options.redirect_uid, least=1, most=2**32 - 2)
        configuration = replace(configuration, redirect=replace(configuration.redirect, uid=uid))
    if options.redirect_mark is not None:
        mark = parse_natural(options.redirect_mark, least=1, most=2**32 - 1)
        configuration = replace(configuration, redirect=replace(configuration.redirect, mark=mark))
    if options.exclude_port:
        excluded = tuple(dict.fromkeys(parse_port(each) for each in options.exclude_port))
        configuration = replace(configuration, redirect=replace(configuration.redirect, exclude_ports=excluded))
    if options.mtls_ports is not None:
        configuration = replace(configuration, mtls_ports=parse_ports(options.mtls_ports))
    if options.mtls_destination_ports is not None:
        configuration = replace(configuration, mtls_destination_ports=parse_ports(options.mtls_destination_ports))
    if options.outbound:
        pairs = [_parse_pair(each, "--outbound") for each in options.outbound]
        outbound = tuple(OutboundListener(listen=listen, destination=other) for listen, other in pairs)
        configuration = replace(configuration, outbound=outbound)
    if options.inbound:
        pairs = [_parse_pair(each, "--inbound") for each in options.inbound]
        inbound = tuple(InboundListener(listen=listen, application=other) for listen, other in pairs)
        configuration = replace(configuration, inbound=inbound)
    if options.max_executable_bytes is not None:
        limit = parse_natural(options.max_executable_bytes, least=1, most=2**40)
        configuration = replace(configuration, max_executable_bytes=limit)
    if options.max_connections is not None:
        configuration = replace(configuration, max_connections=parse_max_connections(options.max_connections))
    if options.drain_seconds is not None:
        configuration = replace(configuration, drain_s=parse_drain(options.drain_seconds))
    if options.log_file is not None:
        configuration = replace(configuration, log_file=options.log_file)
    if options.log_level is not None:
        configuration = replace(configuration, log_level=options.log_level)
    configuration = replace(configuration, traces_frames=is_tracing_frames(environment))
    if not configuration.instance:
        configuration = replace(configuration, instance=f"{_host_name()}-{secrets.token_hex(3)}")
    return configuration.check()


def _read_pod_options(options: argparse.Namespace, environment: Mapping[str, str]) -> PodOptions | None:
    if options.service_account_token is None:
        for value, name in ((options.trust_file, "--trust-file"), (options.trust_domain, "--trust-domain")):
            if value is not None:
                raise InputError(f"{name} belongs to --service-account-token")
        return None
    if options.trust_file is None or options.trust_domain is None:
        raise InputError("--service-account-token needs --trust-file and --trust-domain")
    try:
        trust_domain = check_trust_domain(options.trust_domain)
    except IdentityError as error:
        raise InputError(error.message) from error
    return PodOptions(
        token_file=options.service_account_token,
        trust_file=options.trust_file,
        trust_domain=trust_domain,
        pod=read_pod(environment),
    )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(message, hint="see `python -m sidecar --help`")


def _make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="sidecar",
        description="Touchmark's data plane: captures, attests, identifies, decides, carries and records connections.",
        epilog=f"The join token comes from a file or from the environment ({TOKEN_VARIABLE}), never from an option.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file; options win over it")
    parser.add_argument("--ca", metavar="HOST:PORT", help="the CA (default: the join token's)")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="file that holds the join token")
    parser.add_argument(
        "--service-account-token", type=Path, metavar="FILE", help="in Kubernetes: the pod's token for the CA"
    )
    parser.add_argument("--trust-file", type=Path, metavar="FILE", help="in Kubernetes: the CA's roots, PEM")
    parser.add_argument("--trust-domain", metavar="NAME", help="in Kubernetes: the CA's trust domain")
    parser.add_argument("--health-port", metavar="PORT", help="answer the kubelet's probes here")
    parser.add_argument("--instance", metavar="NAME", help="names this sidecar in decisions")
    parser.add_argument("--capture", choices=[each.value for each in CaptureKind], help="default: listeners")
    parser.add_argument("--tunnel-address", action="append", metavar="ADDRESS", help="where peers reach this workload")
    parser.add_argument("--tunnel-port", metavar="PORT", help="default: 15008")
    parser.add_argument("--redirect-uid", metavar="UID", help="user to become, not captured (default: 1337)")
    parser.add_argument("--redirect-mark", metavar="MARK", help="exempt this SO_MARK instead of the user")
    parser.add_argument(
        "--redirect-installed", action="store_true", help="the table is there and this is its user: install nothing"
    )
    parser.add_argument("--exclude-port", action="append", metavar="PORT", help="never captured")
    parser.add_argument("--mtls-ports", metavar="PORT,PORT", help="serve outsiders by plain mTLS only here")
    parser.add_argument(
        "--mtls-destination-ports", metavar="PORT,PORT", help="speak plain mTLS towards these, outside the mesh"
    )
    parser.add_argument("--outbound", action="append", metavar="LISTEN=DESTINATION", help="an explicit listener")
    parser.add_argument("--inbound", action="append", metavar="LISTEN=APPLICATION", help="an explicit listener")
    parser.add_argument("--max-executable-bytes", metavar="BYTES", help="hash no larger program (default: 1 GiB)")
    parser.add_argument("--max-connections", metavar="NUMBER", help="alive at once, both ways (default: 4096)")
    parser.add_argument(
        "--drain-seconds", "--drain-s", metavar="SECONDS", help="for live connections after SIGTERM (default: 20)"
    )
    parser.add_argument("--log-file", type=Path, metavar="FILE", help="decision records (default: standard output)")
    parser.add_argument("--log-level", choices=LEVELS, help="of the sidecar's own events (default: info)")
    return parser


def _parse_pair(text: str, option: str) -> tuple[Endpoint, Endpoint]:
    listen, equals, other = text.partition("=")
    if not equals:
        raise InputError(f"{option} {text[:80]!r} isn't a pair of addresses", hint="127.0.0.1:5432=198.18.0.2:5432")
    return parse_endpoint(listen), parse_endpoint(other)


def _read_tunnel(configuration: Configuration, value: Value) -> Configuration:
    parts = value.fields(optional=("addresses", "port"))
    if (addresses := parts.get("addresses")) is not None:
        entries = [_read(each, parse_address) for each in addresses.items(max_items=MAX_ADDRESSES)]
        configuration = replace(configuration, tunnel_addresses=tuple(dict.fromkeys(entries)))
    if (port := parts.get("port")) is not None:
        configuration = replace(configuration, tunnel_port=_read(port, parse_port))
    return configuration


def _read_limits(configuration: Configuration, value: Value) -> Configuration:
    parts = value.fields(optional=("maxConnections", "drainSeconds"))
    if (number := parts.get("maxConnections")) is not None:
        configuration = replace(configuration, max_connections=_read(number, parse_max_connections))
    if (seconds := parts.get("drainSeconds")) is not None:
        configuration = replace(configuration, drain_s=_read(seconds, parse_drain))
    return configuration


def _read_redirect(value: Value) -> RedirectOptions:
    options = RedirectOptions()
    parts = value.fields(optional=("outboundPort", "inboundPort", "uid", "excludePorts", "mark"))
    if (port := parts.get("outboundPort")) is not None:
        options = replace(options, outbound_port=_read(port, parse_port))
    if (port := parts.get("inboundPort")) is not None:
        options = replace(options, inbound_port=_read(port, parse_port))
    if (uid := parts.get("uid")) is not None:
        options = replace(options, uid=_read(uid, lambda text: parse_natural(text, least=1, most=2**32 - 2)))
    if (ports := parts.get("excludePorts")) is not None:
        options = replace(options, exclude_ports=_read_ports(ports))
    if (mark := parts.get("mark")) is not None and not mark.is_null():
        options = replace(options, mark=_read(mark, lambda text: parse_natural(text, least=1, most=2**32 - 1)))
    return options


def _read_ports(value: Value | None) -> tuple[int, ...]:
    entries = [] if value is None else [_read(each, parse_port) for each in value.items(max_items=MAX_LISTENERS)]
    return tuple(dict.fromkeys(entries))


def _read(value: Value, parse: Callable[[str], _T]) -> _T:
    return value.build(lambda: parse(value.scalar()))


def _host_name() -> str:
    name = re.sub(r"[^A-Za-z0-9._-]", "-", os.uname().nodename)[:48].lstrip("._-")
    return name or "sidecar"
