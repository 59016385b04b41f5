"""The stage without privileges: everything on loopback, sidecars with explicit listeners. Binds ports for a moment."""

from __future__ import annotations

import socket

from cli.demo.packets import Tap
from cli.demo.stage import BESIDE, BETWEEN, SERVER_PORT, Place, Stage

_WEB = "127.0.0.11"
_CLIENT = "127.0.0.12"
_APPLICATION = "127.0.0.21"
_LOCAL = "127.0.0.1"


def build_listeners() -> Stage:
    """Choose free ports on loopback and return the stage."""
    ca_port, client_port = _find_free_port(_LOCAL), _find_free_port(_LOCAL)
    tunnel_port, served_port, application_port = (
        _find_free_port(_WEB),
        _find_free_port(_WEB, SERVER_PORT),
        _find_free_port(_APPLICATION),
    )
    client_tunnel_port = _find_free_port(_CLIENT)
    wire = {tunnel_port, client_tunnel_port}
    plain = {client_port, application_port}

    def classify(source: int, destination: int) -> str | None:
        ports = {source, destination}
        return BETWEEN if ports & wire else BESIDE if ports & plain else None

    return Stage(
        capture="listeners",
        explanation="Everything runs on loopback; the sidecars capture by explicit listeners, without privileges.",
        ca=Place(),
        web=Place(
            address=_WEB,
            configuration=(
                f"capture: listeners\ntunnel: {{addresses: [{_WEB}], port: {tunnel_port}}}\n"
                f'inbound:\n  - {{listen: "{_WEB}:{served_port}", application: "{_APPLICATION}:{application_port}"}}\n'
            ),
        ),
        client=Place(
            address=_CLIENT,
            configuration=(
                f"capture: listeners\ntunnel: {{addresses: [{_CLIENT}], port: {client_tunnel_port}}}\n"
                f'outbound:\n  - {{listen: "{_LOCAL}:{client_port}", destination: "{_WEB}:{served_port}"}}\n'
            ),
        ),
        outsider=Place(),
        ca_listen=f"{_LOCAL}:{ca_port}",
        server_listen=f"{_APPLICATION}:{application_port}",
        client_url=f"http://{_LOCAL}:{client_port}/",
        outsider_url=f"http://{_WEB}:{served_port}/",
        taps=(Tap(interface="lo", netns=None, classify=classify),),
    )


def _find_free_port(address: str, wanted: int = 0) -> int:
    with socket.socket() as probe:
        try:
            probe.bind((address, wanted))
        except OSError:
            probe.bind((address, 0))
        return int(probe.getsockname()[1])
