"""What a sidecar is told, as one frozen value, and whether its parts fit together. Pure.

Belongs here: the shape, the defaults and the checks across settings. Doesn't: options and files (``settings.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from shared.model.errors import InputError
from shared.model.formats.line import LineFormat
from shared.model.kubernetes.contract import ProbeTarget
from sidecar.native.engine import Wanted
from sidecar.settings.pod import Pod
from sidecar.sockets.address import Endpoint, format_endpoint, is_loopback

TOKEN_VARIABLE = "TOUCHMARK_JOIN_TOKEN"
MAX_NAMESERVERS = 3


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


class Hold(StrEnum):
    """When a program's ``connect()`` waits until the program was looked at.

    ``AUTO``: towards ports whose programs were gone before they could be looked at, for a day.
    """

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class RedirectOptions:
    """Capture by nftables.

    Attributes:
        uid: the user that the sidecar becomes; its connections aren't captured.
        mark: where there is only one user (``unshare -Urn``): connections with this SO_MARK aren't captured instead.
        hold: when a program's ``connect()`` waits until the program was looked at.
        hold_ports: towards these destination ports only; empty for all.
        is_installed: somebody else has installed the table (``capture.install``), and this process has its user.
    """

    outbound_port: int = 15001
    inbound_port: int = 15006
    uid: int = 1337
    exclude_ports: tuple[int, ...] = ()
    mark: int | None = None
    hold: Hold = Hold.AUTO
    hold_ports: tuple[int, ...] = ()
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
        state_directory: where the renewal key is kept; None: in memory.
        tpm: the device of the TPM that makes the renewal keys and signs with them; None: they stand in the file.
        instance: names this sidecar in decisions; one that comes back by its key keeps its name.
        is_named: somebody has chosen that name.
        takes_remote_clients: outbound listeners may have addresses that aren't loopback; who isn't a program of this
            pod is carried there, but never under a certificate.
        max_connections: connections of the pod's own at once; as many of peers, of strangers, and of unfinished
            handshakes. None is the default, less where the limit on open files is low.
        drain_s: how long live connections may finish after SIGTERM.
        idle_timeout_s, max_duration_s: how long a connection may be idle, or live; 0: as long as the applications want.
        log_file: where decision records go; None is standard output.
        log_format: how they are written there.
        health_port: of the server for the kubelet's probes; None for none.
        probes: what the kubelet asks there in the application's place.
        log_level: the least level of the sidecar's own events.
        serves_metrics: ``/metrics`` is answered on the health port.
        has_admin_socket: `touchmark sidecar` is answered.
        watchdog_s: how long the event loop may stand still before the sidecar ends; 0: for ever.
        engine: what moves bytes.
        workers: how many threads of it at most, for established connections.
        traces_frames: an event is written for each frame of a tunnel.
        nameservers: who is asked for the host names of egress rules; empty: those of ``/etc/resolv.conf`` at the start.
        mtls_ports: ports at which outsiders are served by plain mTLS only; with explicit listeners, of their `listen`.
        mtls_destination_ports: ports towards which plain mTLS is spoken outside the mesh; with explicit listeners, of
            their `destination`.

    Raises:
        InputError: the parts contradict each other.
    """

    ca: tuple[str, int] | None = None
    token: str | None = field(default=None, repr=False)
    state_directory: Path | None = None
    tpm: Path | None = None
    instance: str = ""
    is_named: bool = False
    capture: CaptureKind = CaptureKind.LISTENERS
    tunnel_addresses: tuple[str, ...] = ()
    tunnel_port: int = 15008
    redirect: RedirectOptions = field(default_factory=RedirectOptions)
    outbound: tuple[OutboundListener, ...] = ()
    inbound: tuple[InboundListener, ...] = ()
    takes_remote_clients: bool = False
    max_executable_bytes: int = 1024**3
    max_connections: int | None = None
    drain_s: float = 20.0
    idle_timeout_s: float = 0.0
    max_duration_s: float = 0.0
    log_file: Path | None = None
    log_format: LineFormat = LineFormat.JSON
    pod: PodOptions | None = None
    health_port: int | None = None
    probes: tuple[ProbeTarget, ...] = ()
    log_level: str = "info"
    serves_metrics: bool = True
    has_admin_socket: bool = True
    watchdog_s: float = 30.0
    engine: Wanted = Wanted.AUTO
    workers: int = 1
    traces_frames: bool = False
    nameservers: tuple[Endpoint, ...] = ()
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
            if self.state_directory is not None:
                raise InputError("a pod joins again by its token: it needs no state directory")
        elif self.token is None and self.state_directory is None:
            raise InputError(
                "no join token is given",
                hint=f"make one with `touchmark ca join-token`; give it by --token-file or in {TOKEN_VARIABLE}",
            )
        if self.tpm is not None and self.state_directory is None:
            raise InputError(
                "--tpm binds the renewal key of a state directory to this machine",
                hint="--state-directory; in memory nobody reads the key, and a pod has none",
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
            if self.redirect.hold_ports and self.redirect.hold is not Hold.ALWAYS:
                raise InputError(
                    "redirect.holdPorts says which connections are always held",
                    hint="redirect.holdConnects: always",
                )
            if self.redirect.is_installed and self.redirect.hold_ports:
                raise InputError("where the redirect is installed already, `sidecar.capture.install` takes --hold-port")
        elif self.redirect.is_installed:
            raise InputError("--redirect-installed belongs to `capture: redirect`")
        elif not self.outbound and not self.inbound:
            raise InputError("capture by listeners needs at least one of `outbound` and `inbound`")
        self._check_mtls()
        if len(self.nameservers) > MAX_NAMESERVERS:
            raise InputError(f"{len(self.nameservers)} nameservers; at most {MAX_NAMESERVERS} are asked")
        listens = [each.listen for each in self.outbound] + [each.listen for each in self.inbound]
        for endpoint in listens:
            if listens.count(endpoint) > 1:
                raise InputError(f"two listeners have the address {format_endpoint(endpoint)}")
            if endpoint[1] == self.tunnel_port and endpoint[0] in self.tunnel_addresses:
                raise InputError(f"{format_endpoint(endpoint)} is the tunnel's own address")
        self._check_remote_clients()
        return self

    def _check_remote_clients(self) -> None:
        """Check that no client outside the pod can dial through the sidecar without having been meant to."""
        exposed = [each.listen for each in self.outbound if not is_loopback(each.listen[0])]
        if exposed and not self.takes_remote_clients:
            raise InputError(
                f"clients outside the pod could dial through the outbound listener on {format_endpoint(exposed[0])}",
                hint="listen on loopback; or --takes-remote-clients, which gives them no identity",
            )

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
