"""The doors: an address that can't be had is named, and nothing stays open."""

from __future__ import annotations

import socket

import pytest

from shared.model.errors import MachineError
from sidecar.capture.capturing import Entrance, close_doors, open_doors
from sidecar.configuration import Configuration, OutboundListener


def outbound(*ports: int) -> Configuration:
    listeners = (OutboundListener(listen=("127.0.0.1", port), destination=("127.0.0.2", 1)) for port in ports)
    return Configuration(outbound=tuple(listeners))


def test_a_taken_port_is_named_and_the_others_are_closed_again() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(MachineError, match=str(taken.getsockname()[1])):
            open_doors(outbound(free, taken.getsockname()[1]))
        doors = open_doors(outbound(free))
        assert [door.entrance for door in doors] == [Entrance.EXPLICIT_OUT]
        close_doors(doors)
