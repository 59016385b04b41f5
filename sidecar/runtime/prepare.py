"""Before the event loop, while there are privileges: files, sockets, the redirect; then privileges are dropped.

Belongs here: the order of these steps, and the machine's limits. Doesn't: the sidecar's parts (``compose.py``).
"""

from __future__ import annotations

import resource
import socket
from dataclasses import dataclass, replace
from pathlib import Path

from shared.model.errors import InputError, MachineError
from shared.model.trust.join_token import parse_join_token
from shared.runtime.memory import forbid_dumps, lock_pages
from shared.runtime.sinks import open_file
from sidecar.capture.capturing import Door, close_doors, open_doors
from sidecar.capture.redirect import RedirectRefusedError, install_redirect
from sidecar.capture.redirect_table import RedirectRules
from sidecar.control.joining import ByPod, Joining
from sidecar.control.renewing import ByRenewal
from sidecar.credential.renewal_key import begin_renewal_key, load_renewal_key
from sidecar.credential.state_directory import StateDirectory
from sidecar.hostnames.nameservers import read_nameservers
from sidecar.native.engine import choose, choose_workers
from sidecar.parts import Limits
from sidecar.runtime.privileges import CAP_NET_ADMIN, KEPT, become_user, effective, keep_only, keep_what_a_pod_gives
from sidecar.settings.configuration import TOKEN_VARIABLE, CaptureKind, Configuration, Hold
from sidecar.settings.parsing import parse_host_port
from sidecar.sockets.address import Endpoint

# A connection of the pod's own needs up to three descriptors; with the default limit every room may be full at once.
_FILES_PER_CONNECTION = 4
_FILES_PER_PLACE = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What was opened while there were privileges.

    Attributes:
        probe_listeners: where the kubelet asks; none without a health port.
        log: descriptor of the decision log.
        hold: when programs' ``connect()`` waits, as far as that can be had here.
        nameservers: who is asked for the host names of egress rules.
        unheld_because: why it can't; empty where it can, or isn't asked for.
    """

    configuration: Configuration
    joining: Joining
    ca: tuple[str, int]
    limits: Limits
    doors: list[Door]
    probe_listeners: list[socket.socket]
    log: int
    pages_locked: bool
    hold: Hold = Hold.NEVER
    unheld_because: str = ""
    nameservers: tuple[Endpoint, ...] = ()

    @property
    def mark(self) -> int:
        """SO_MARK of the sidecar's own sockets; 0 for none."""
        configuration = self.configuration
        return (configuration.redirect.mark or 0) if configuration.capture is CaptureKind.REDIRECT else 0


def prepare(configuration: Configuration) -> Prepared:
    """Do what needs privileges, then give them up. No thread may run yet: capabilities belong to threads.

    Raises:
        InputError: the token or the log file can't be used, or the native engine is asked for and isn't there.
        MachineError: an address can't be had, the redirect can't be installed, privileges can't be dropped.
    """
    choose(configuration.engine)
    choose_workers(configuration.workers)
    configuration, joining, ca = _choose_joining(configuration)
    log = 1 if configuration.log_file is None else _open_log(configuration.log_file)
    limits = _limit(configuration)
    doors = open_doors(configuration)
    probe_listeners: list[socket.socket] = []
    hold, unheld_because = Hold.NEVER, ""
    try:
        if configuration.health_port is not None:
            from sidecar.probing.server import open_probe_listeners  # An HTTP library: only where it is wanted.

            probe_listeners = open_probe_listeners(configuration.health_port)
        if configuration.capture is CaptureKind.REDIRECT:
            hold, unheld_because = _redirect(configuration)
        forbid_dumps()
    except BaseException:
        close_doors(doors)
        for listener in probe_listeners:
            listener.close()
        raise
    return Prepared(
        configuration=configuration,
        joining=joining,
        ca=ca,
        limits=limits,
        doors=doors,
        probe_listeners=probe_listeners,
        log=log,
        hold=hold,
        unheld_because=unheld_because,
        pages_locked=lock_pages(),
        nameservers=configuration.nameservers or read_nameservers(),
    )


def _choose_joining(configuration: Configuration) -> tuple[Configuration, Joining, tuple[str, int]]:
    """Return how to join, and where; and the configuration, with the name of a sidecar that comes back.

    Raises:
        InputError: neither a join token nor a renewal key can be used, or the key is that of another name or TPM.
        MachineError: the state directory or the TPM can't.
        UnavailableError: the TPM doesn't answer.
    """
    options = configuration.pod
    if options is None or configuration.ca is None:
        renewing = _choose_renewal(configuration)
        kept = renewing.renewal.kept
        if configuration.is_named and kept.instance != configuration.instance:
            raise InputError(
                f"--instance {configuration.instance}: the key in {configuration.state_directory} is that of"
                f" {kept.instance}, and who comes back keeps its name",
                hint="leave the name out; for another one, start the sidecar with a new join token",
            )
        return replace(configuration, instance=kept.instance), renewing, configuration.ca or parse_host_port(kept.ca)
    joining = ByPod(
        token_file=options.token_file,
        trust_file=options.trust_file,
        trust_domain=options.trust_domain,
        workload=options.pod.workload,
    )
    return configuration, joining, configuration.ca


def _choose_renewal(configuration: Configuration) -> ByRenewal:
    """Return the key that is kept, unless there is another join token than it came by; else a new one."""
    directory = None
    if configuration.state_directory is not None:
        directory = StateDirectory(configuration.state_directory, owner=_future_user(configuration))
    token = None if configuration.token is None else parse_join_token(configuration.token)
    tpm = None
    if configuration.tpm is not None:
        from sidecar.credential.tpm import Tpm  # Only where it is wanted.

        tpm = Tpm(configuration.tpm)
    kept = None if directory is None else load_renewal_key(directory, tpm=tpm)
    if kept is not None and token is not None and token.token_id != kept.kept.token_id:
        kept = None
    if kept is not None:
        return ByRenewal(kept, None)
    if token is None:
        raise InputError(
            f"no join token is given, and {configuration.state_directory} holds no renewal key",
            hint=f"make one with `touchmark ca join-token`; give it by --token-file or in {TOKEN_VARIABLE}",
        )
    renewal = begin_renewal_key(token, instance=configuration.instance, directory=directory, tpm=tpm)
    return ByRenewal(renewal, token)


def _future_user(configuration: Configuration) -> int | None:
    """Return the user that this process becomes; None: it stays who it is."""
    options = configuration.redirect
    is_changing = configuration.capture is CaptureKind.REDIRECT and not options.is_installed and options.mark is None
    return options.uid if is_changing else None


def _open_log(path: Path) -> int:
    try:
        return open_file(path)
    except OSError as error:
        raise InputError(f"can't write the log file {path}: {error.strerror}") from error


def _limit(configuration: Configuration) -> Limits:
    """Raise the limit on open files as far as it goes, and keep the number of connections below it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    limits = Limits(
        drain_s=configuration.drain_s,
        idle_timeout_s=configuration.idle_timeout_s,
        max_duration_s=configuration.max_duration_s,
    )
    most = hard // _FILES_PER_CONNECTION
    wanted = configuration.max_connections
    if wanted is not None and wanted > most:
        raise MachineError(
            f"{wanted} connections need {wanted * _FILES_PER_CONNECTION} open files, and the limit is {hard}",
            hint="a higher `ulimit -n`, or a lower limits.maxConnections",
        )
    default = max(1, min(hard // _FILES_PER_PLACE, limits.max_connections))
    return replace(limits, max_connections=default if wanted is None else wanted)


def _redirect(configuration: Configuration) -> tuple[Hold, str]:
    """Install the table unless somebody has, and become its user.

    Returns:
        When programs' ``connect()`` can wait, and why not more, where that was left to this process.
    """
    options = configuration.redirect
    # The kernel asks for it whenever a connection that waits is let pass.
    holding = KEPT | 1 << CAP_NET_ADMIN
    if options.is_installed:
        hold = options.hold
        if hold is Hold.AUTO and not effective() & 1 << CAP_NET_ADMIN:
            hold = Hold.NEVER  # As in every pod that doesn't ask for it.
        keep_what_a_pod_gives(options.uid, KEPT if hold is Hold.NEVER else holding)
        return hold, ""
    rules = RedirectRules(
        outbound_port=options.outbound_port,
        inbound_port=options.inbound_port,
        tunnel_port=configuration.tunnel_port,
        uid=options.uid,
        mark=options.mark,
        holds_connects=options.hold is not Hold.NEVER,
        hold_ports=options.hold_ports,
        health_port=configuration.health_port,
        exclude_ports=options.exclude_ports,
    )
    hold, why = options.hold, ""
    try:
        install_redirect(rules)
    except RedirectRefusedError as error:
        if hold is not Hold.AUTO:
            raise
        install_redirect(replace(rules, holds_connects=False))
        hold, why = Hold.NEVER, error.message
    if options.mark is None:
        become_user(options.uid, KEPT if hold is Hold.NEVER else holding)
    else:
        keep_only(holding)  # SO_MARK asks for it at every socket.
    return hold, why
