"""The stage with real capture: network namespaces for the CA, the server, the client and an outsider. Does I/O.

A bridge in the CA's namespace joins them. Nothing is changed in the namespace in which the demo was started. The names
are unique, and removed at the end.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
from collections.abc import Iterator, Sequence
from typing import Final

from cli.demo.packets import Tap
from cli.demo.stage import BESIDE, BETWEEN, SERVER_PORT, Place, Stage
from cli.machine.machine import find_program
from shared.model.errors import MachineError

_TIMEOUT_S: Final = 30
_TUNNEL_PORT: Final = 15008
_CA_PORT: Final = 15443
_MARK: Final = 0x746D
_PARTIES: Final = {"ca": 1, "web": 2, "client": 3, "outside": 4}


@contextlib.contextmanager
def build_namespaces(*, is_user_namespace: bool) -> Iterator[Stage]:
    """Make the namespaces, yield the stage, remove them.

    Arguments:
        is_user_namespace: there is only user 0 here (``unshare -Urnm``): sidecars are distinguished by a mark, and
            namespaces are entered by nsenter(1), because ip-netns(8) would mount a /sys that it may not.

    Raises:
        MachineError: this machine doesn't let us.
    """
    run_id = secrets.token_hex(2)
    names = {party: f"tm-{run_id}-{party}" for party in _PARTIES}
    network = f"198.18.{secrets.randbelow(250) + 2}"  # 198.18.0.0/15 is set aside for such tests (RFC 2544).
    made: list[str] = []
    try:
        for name in names.values():
            made.append(name)  # Before: Ctrl-C may come while it is being made.
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        hub = names["ca"]
        _ip("-n", hub, "link", "add", "br0", "type", "bridge")
        _ip("-n", hub, "addr", "add", f"{network}.1/24", "dev", "br0")
        _ip("-n", hub, "link", "set", "br0", "up")
        for party, number in _PARTIES.items():
            if party == "ca":
                continue
            own = names[party]
            _ip("-n", hub, "link", "add", party, "type", "veth", "peer", "name", "eth0", "netns", own)
            _ip("-n", hub, "link", "set", party, "master", "br0", "up")
            _ip("-n", own, "addr", "add", f"{network}.{number}/24", "dev", "eth0")
            _ip("-n", own, "link", "set", "eth0", "up")
        yield _describe(names, network, is_user_namespace=is_user_namespace)
    finally:
        for name in made:
            with contextlib.suppress(MachineError):
                _ip("netns", "del", name)


def _describe(names: dict[str, str], network: str, *, is_user_namespace: bool) -> Stage:
    def enter(party: str) -> tuple[str, ...]:
        if is_user_namespace:
            return (find_program("nsenter") or "nsenter", f"--net=/run/netns/{names[party]}")
        return (find_program("ip") or "ip", "netns", "exec", names[party])

    def configure(address: str) -> str:
        exemption = f"redirect: {{mark: {_MARK}}}\n" if is_user_namespace else ""
        return f"capture: redirect\ntunnel: {{addresses: [{address}], port: {_TUNNEL_PORT}}}\n{exemption}"

    def tap(party: str, interface: str, leg: str) -> Tap:
        def classify(source: int, destination: int) -> str | None:
            return None if _CA_PORT in (source, destination) else leg

        return Tap(interface=interface, netns=f"/run/netns/{names[party]}", classify=classify)

    web, client = f"{network}.{_PARTIES['web']}", f"{network}.{_PARTIES['client']}"
    whose = "in a user namespace" if is_user_namespace else "made for this run"
    return Stage(
        capture="redirect",
        explanation=f"Network namespaces {whose}; the kernel redirects every TCP connection to the sidecars.",
        ca=Place(prefix=enter("ca")),
        web=Place(prefix=enter("web"), address=web, configuration=configure(web)),
        client=Place(prefix=enter("client"), address=client, configuration=configure(client)),
        outsider=Place(prefix=enter("outside")),
        ca_listen=f"{network}.1:{_CA_PORT}",
        server_listen=f"{web}:{SERVER_PORT}",
        client_url=f"http://{web}:{SERVER_PORT}/",
        outsider_url=f"http://{web}:{SERVER_PORT}/",
        taps=(
            tap("client", "lo", BESIDE),
            tap("web", "lo", BESIDE),
            tap("client", "eth0", BETWEEN),
            tap("web", "eth0", BETWEEN),
        ),
    )


def _ip(*arguments: str) -> None:
    _run([find_program("ip") or "ip", *arguments])


def _run(command: Sequence[str]) -> None:
    try:
        ended = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MachineError(f"can't run {' '.join(command)}: {error}") from error
    if ended.returncode != 0:
        raise MachineError(
            f"{' '.join(command)}: {ended.stderr.decode(errors='replace').strip()}",
            hint=f"`touchmark demo --capture listeners` needs no namespaces (uid {os.geteuid()})",
        )
