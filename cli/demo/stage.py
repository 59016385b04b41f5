"""What a stage is: addresses, prefixes and configuration, whatever kind it has. Pure.

``beside`` and ``between`` name the two legs that the packet watch tells apart: beside an application, where its bytes
are plaintext by nature, and between the two sidecars.
"""

from __future__ import annotations

from dataclasses import dataclass

from cli.demo.packets import Tap

BESIDE = "beside the applications"
BETWEEN = "between the sidecars"
SERVER_PORT = 8080


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one party of the demo runs.

    Attributes:
        prefix: goes before every command there, such as ``ip netns exec NAME``; empty on the host itself.
        address: the IP address that a join token names; empty for a party without sidecar.
        configuration: its sidecar's YAML, without the token; empty for a party without sidecar.
    """

    prefix: tuple[str, ...] = ()
    address: str = ""
    configuration: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Where the story takes place.

    Attributes:
        capture: ``redirect`` or ``listeners``.
        explanation: one sentence for the audience.
        ca_listen: ``host:port`` of the CA.
        server_listen: ``host:port`` at which the server's own process listens.
        client_url: what a program beside the client's sidecar dials.
        outsider_url: what a stranger dials.
        taps: where packets are looked at.
    """

    capture: str
    explanation: str
    ca: Place
    web: Place
    client: Place
    outsider: Place
    ca_listen: str
    server_listen: str
    client_url: str
    outsider_url: str
    taps: tuple[Tap, ...]
